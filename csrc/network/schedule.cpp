#include "network/schedule.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/device.h"
#include "core/team.h"
#include "network/segments.h"
#include "network/spaces.h"

namespace rnnk {
namespace {

bool is_kernel_of(int device, const char* name) {  // -1: of any device
  for (auto k = kKernels; *k; ++k) {
    if (std::strcmp((*k)->name, name) == 0 && (device < 0 || (*k)->device == device)) return true;
  }
  return false;
}

// Whether launches may run on a GPU at the same time; shares is the sum of their Kernel::share. All blocks of a cooperative launch
// wait for each other, so two launches that do not fit together could each hold some multiprocessors and wait for ever for the rest.
bool may_overlap(bool cooperative, double shares) { return !cooperative || shares <= 1; }

// Estimates of a block of steps of each layer of a stack.
struct Stack {
  const Network& network;
  const Extent& extent;
  bool backward;
  int64_t lowest;

  int64_t layers() const { return network.num_layers - lowest; }
  double block_us(int64_t layer, int64_t steps, int threads) const {
    const Layer& l = network.layer(layer, 0);
    return l.kernel->estimate(network.problem(layer, 0, extent.masked), steps, extent.batch, backward, threads);
  }
  double in_turn_us(int64_t steps, int threads) const {
    double us = 0;
    for (int64_t l = lowest; l < network.num_layers; ++l) us += block_us(l, steps, threads);
    return us;
  }
  // For as many layers as run on streams at the same time.
  bool layers_may_overlap() const {
    bool cooperative = false;
    double share = 0;
    for (int64_t l = lowest; l < std::min(network.num_layers, lowest + 2); ++l) {  // those above are alike
      const Kernel& kernel = *network.layer(l, 0).kernel;
      cooperative = cooperative || kernel.cooperative;
      share = std::max(share, kernel.share(network.problem(l, 0, extent.masked), extent.batch, backward));
    }
    return may_overlap(cooperative, share * static_cast<double>(std::min<int64_t>(layers(), kMostSides + 1)));
  }
  int64_t phases(int64_t steps) const { return (extent.seq_len + steps - 1) / steps + layers() - 1; }

  // On threads a phase lasts as long as the layers that share a thread.
  double on_threads_us(int64_t steps, int threads) const {
    const double share = std::max(1.0, static_cast<double>(layers()) / threads) / static_cast<double>(layers());
    return static_cast<double>(phases(steps)) * (in_turn_us(steps, 1) * share + costs::kPhaseUs);
  }
  // On streams it lasts as long as the slowest layer, or as all where each fills the GPU; or everything waits for the host.
  double on_streams_us(int64_t steps) const {
    double longest = 0, full = 0;
    for (int64_t l = lowest; l < network.num_layers; ++l) {
      const Problem& p = network.problem(l, 0, extent.masked);
      const double us = block_us(l, steps, 1);
      longest = std::max(longest, us);
      full += us * network.layer(l, 0).kernel->share(p, extent.batch, backward);
    }
    const int64_t blocks = (extent.seq_len + steps - 1) / steps;
    // Only so many layers at a time, and the others when those are done.
    const int64_t most = std::min<int64_t>(layers(), kMostSides + 1), groups = (layers() + most - 1) / most;
    const double each = std::max(longest, full / static_cast<double>(groups));
    return std::max(static_cast<double>(groups * (blocks + most - 1)) * each,
                    static_cast<double>(blocks * layers()) * costs::kGpuCallUs);
  }
};

// RNNKERN_GPU_WAVE: steps of a block in place of the model's choice, 0 for layer after layer; -1: as the model chooses.
int64_t wanted_steps() {
  const char* const given = std::getenv("RNNKERN_GPU_WAVE");
  if (!given || !*given) return -1;
  char* end = nullptr;
  const long long steps = std::strtoll(given, &end, 10);
  if (*end || steps < 0) {
    fail(RNNK_INVALID_VALUE, "RNNKERN_GPU_WAVE: expected a number of steps, or 0 for layer after layer, got \"%.40s\"",
         given);
  }
  return steps;
}

// The wave with the smallest estimate among those that fit, or `in_turn`.
template <class Us, class Fits>
Wave best_wave(const Stack& stack, Wave in_turn, const Us& us_of, const Fits& fits) {
  Wave best = in_turn;
  double least = stack.in_turn_us(stack.extent.seq_len, team_size()) / costs::kConcurrencyMargin;
  for (int64_t steps = costs::kLeastSteps; steps <= stack.extent.seq_len / 2; steps *= 2) {
    const double us = us_of(steps);
    if (us < least && fits(Wave{steps, true})) least = us, best = {steps, true};
  }
  return best;
}

Wave wave_on_gpu(const Stack& stack, int64_t workspace, int64_t (*bytes_of)(const Network&, const Extent&, int64_t, Wave)) {
  const Wave in_turn{stack.extent.seq_len, false};
  const Problem& p = stack.network.first();
  if (p.recompute && (stack.backward || stack.extent.keeps)) return in_turn;  // it is for where memory is short
  const auto fits = [&](Wave w) {
    const int64_t bytes = bytes_of(stack.network, stack.extent, stack.lowest, w);
    return bytes <= costs::kMostOnGpu && (workspace < 0 || bytes <= workspace);
  };
  if (!stack.layers_may_overlap()) return in_turn;
  const int64_t wanted = wanted_steps();
  if (wanted >= 0) {
    const Wave wave{wanted, true};
    return wanted > 0 && wanted < stack.extent.seq_len && fits(wave) ? wave : in_turn;
  }
  return best_wave(stack, in_turn, [&](int64_t steps) { return stack.on_streams_us(steps); }, fits);
}

// A stack that may go in blocks at all.
bool may_wave(const Network& n, const Extent& e, int64_t layers) {
  return n.directions == 1 && layers > 1 && layers <= costs::kMostAtOnce && e.batch > 0 && !e.drops &&
         e.seq_len >= 2 * costs::kLeastSteps;
}

}  // namespace

bool can_run(const Kernel& kernel, const Problem& problem, char* reason, int64_t size) {
  const char* missing = kernel.device != problem.device ? other_device(kernel) : unavailable(kernel);
  if (*missing) {
    std::strncpy(reason, missing, static_cast<size_t>(size - 1));
    reason[size - 1] = 0;
    return false;
  }
  if (kernel.form != problem.form) {
    std::snprintf(reason, static_cast<size_t>(size), "it is for weights in %s",
                  kernel.form == WeightForm::own ? "the dtype" : form_name(kernel.form));
    return false;
  }
  return kernel.accepts(problem, reason, size);
}

const Kernel& choose_kernel(const Problem& problem, const rnnk_problem& hints, const char* name) {
  char reason[240] = "";
  const bool from_environment = !name || !*name;
  if (from_environment) name = std::getenv("RNNKERN_KERNEL");
  // The environment forces one device's kernels; problems of the other choose freely.
  if (name && *name && from_environment && !is_kernel_of(problem.device, name) && is_kernel_of(-1, name)) name = nullptr;
  if (name && *name) {
    std::string known;
    for (auto k = kKernels; *k; ++k) {
      known += std::string(known.empty() ? "" : ", ") + (*k)->name;
      if (std::strcmp((*k)->name, name) != 0) continue;
      if (!can_run(**k, problem, reason, sizeof reason)) {
        fail(RNNK_NOT_SUPPORTED, "kernel %s was asked for by name but declines: %s", name, reason);
      }
      return **k;
    }
    fail(RNNK_INVALID_VALUE, "kernel: expected one of %s, got \"%.60s\"", known.c_str(), name);
  }
  const int64_t steps = hints.typical_seq_len ? hints.typical_seq_len : costs::kTypicalSteps;
  const int64_t batch = hints.typical_batch ? hints.typical_batch : costs::kTypicalBatch;
  const Kernel* best = nullptr;
  double best_us = 0;
  std::string why;
  for (auto k = kKernels; *k; ++k) {
    if (!can_run(**k, problem, reason, sizeof reason)) {
      why += std::string(why.empty() ? "" : "; ") + (*k)->name + ": " + reason;
      continue;
    }
    const double us = (*k)->estimate(problem, steps, batch, false, 1) + (*k)->estimate(problem, steps, batch, true, 1);
    if (!best || us < best_us) best = *k, best_us = us;
  }
  if (!best) fail(RNNK_NOT_SUPPORTED, "no kernel does %s: %s", cell_info(problem.cell)->name, why.c_str());
  return *best;
}

int64_t segment_steps(const Kernel& kernel, int64_t seq_len, int64_t batch) {
  const int64_t block = std::max<int64_t>(1, kernel.gradient_steps(seq_len, batch));
  const double best = std::sqrt(costs::kSegment * static_cast<double>(seq_len));
  const auto blocks = static_cast<int64_t>(std::ceil(best / static_cast<double>(block)));
  return std::clamp<int64_t>(blocks * block, 1, std::max<int64_t>(seq_len, 1));
}

bool faster_at_once(const KernelCall& one, const KernelCall& other, bool backward, double extra_us) {
  if (!one.on_cpu()) {
    const bool cooperative = one.kernel.cooperative || other.kernel.cooperative;
    if (!may_overlap(cooperative, one.share(backward) + other.share(backward))) return false;
    return std::min(one.estimate(backward, 1), other.estimate(backward, 1)) >= costs::kGpuForkUs;
  }
  const int threads = team_size();
  if (threads < 2) return false;
  const double in_turn = one.estimate(backward, threads) + other.estimate(backward, threads);
  const double at_once = std::max(one.estimate(backward, 1), other.estimate(backward, 1)) + costs::kWakeUs + extra_us;
  return at_once * costs::kConcurrencyMargin < in_turn;
}

int64_t second_dx_bytes(const KernelCall& one, const KernelCall& other) {
  const Problem& p = other.problem;
  const int64_t elements = other.call.seq_len * other.call.batch * p.input_size;
  const int64_t bytes = line(elements * item_size(state_dtype(p)));
  const int64_t most = one.on_cpu() ? costs::kMostSecondDx : costs::kMostSecondDxOnGpu;
  if (p.recompute || bytes > most) return 0;  // recomputation is for where memory is short
  return faster_at_once(one, other, true, costs::kAddUs * static_cast<double>(elements)) ? bytes : 0;
}

Wave forward_wave(const Network& n, const Extent& e, int64_t workspace) {
  Wave in_turn{e.seq_len, false};
  if (!may_wave(n, e, n.num_layers)) return in_turn;
  const Stack stack{n, e, false, 0};
  if (!n.on_cpu()) return wave_on_gpu(stack, workspace, forward_bytes);
  if (e.keeps) return in_turn;
  // A block that one layer hands to the next is bounded; in shorter blocks than these a product has too few rows.
  const int64_t row = e.batch * n.outputs() * item_size(n.first().dtype);
  const int64_t bounded = std::max(costs::kMostBetweenLayers / row, 256 / e.batch + 1);
  in_turn.steps = std::min(e.seq_len, bounded);
  if (team_size() < 2 || workspace == 0) return in_turn;
  const int threads = team_size();
  return best_wave(
      stack, in_turn, [&](int64_t steps) { return stack.on_threads_us(steps, threads); },
      [&](Wave w) { return w.steps <= bounded && (workspace < 0 || forward_bytes(n, e, 0, w) <= workspace); });
}

Wave backward_wave(const Network& n, const Extent& e, int64_t lowest, int64_t workspace) {
  const Wave in_turn{e.seq_len, false};
  if (n.on_cpu() || workspace == 0 || !may_wave(n, e, n.num_layers - lowest)) return in_turn;
  return wave_on_gpu({n, e, true, lowest}, workspace, backward_bytes);
}

}  // namespace rnnk
