#include "core/stack.h"

#include <algorithm>
#include <cstdlib>

#include "core/device.h"
#include "core/recompute.h"
#include "core/storage.h"
#include "core/team.h"

namespace rnnk {
namespace {

constexpr double kPhaseUs = 1;      // for all threads to meet
constexpr double kCallUs = 20;      // of the host, to hand a call over to a GPU: a guess
constexpr double kWorth = 1.2;      // as in beside.cpp: estimates are good to tens of percent
constexpr int64_t kLeastSteps = 8;  // of a block: below, what a call costs beside its steps shows

// Layers in blocks of steps, each layer a block behind the one whose results it takes.
struct Wave {
  const PlanCall* calls;
  int layers;
  bool backward;
  int64_t steps, seq_len;  // of a block, of all

  bool on_cpu() const { return calls[0].problem.device == RNNK_CPU; }
  int64_t blocks() const { return (seq_len + steps - 1) / steps; }
  double phases() const { return static_cast<double>(blocks() + layers - 1); }
  double block_us(int layer, int threads) const {
    return calls[layer].kernel.estimate(calls[layer].problem, steps, calls[layer].args.batch, backward, threads);
  }
  double in_turn_us(int threads) const {
    double us = 0;
    for (int i = 0; i < layers; ++i) us += block_us(i, threads);
    return us;
  }
};

void in_turn(const Wave& w) {
  for (int i = 0; i < w.layers; ++i) {
    const PlanCall& c = w.calls[w.backward ? w.layers - 1 - i : i];
    (w.backward ? plan_backward : plan_forward)(c.problem, c.kernel, c.args);
  }
}

// --- on threads: inference, a block being a call of its own -----------------------------------------------------------------

// Its states are passed on through h_n and c_n: they must be there, and in the type they are computed in.
bool in_calls(const PlanCall& c) {
  const rnnk_args& a = c.args;
  const int state = c.problem.dtype == RNNK_FLOAT64 ? RNNK_FLOAT64 : RNNK_FLOAT32;
  const bool cell_state = cell_info(c.problem.cell)->states > 1;
  return !c.problem.reverse && !a.reserve && !a.lengths && !a.mask && !a.reset && !(a.flags & RNNK_TRAIN) && a.batch > 0 &&
         a.h_n.data && (!cell_state || (a.c_n.data && a.c_n.dtype == state));
}

// A phase lasts as long as the layers that share a thread.
double on_threads_us(const Wave& w, int threads) {
  const double share = std::max(1.0, static_cast<double>(w.layers) / threads) / w.layers;
  return w.phases() * (w.in_turn_us(1) * share + kPhaseUs);
}

void run_call(const Wave& w, int layer, int64_t block) {
  if (block < 0 || block >= w.blocks()) return;
  const PlanCall& c = w.calls[layer];
  const int64_t first = block * w.steps;
  rnnk_args a = c.args;
  a.seq_len = std::min(w.steps, w.seq_len - first);
  a.x.data = at(a.x, first * a.x.stride[0]);
  a.y.data = at(a.y, first * a.y.stride[0]);
  if (block > 0) a.h_0 = a.h_n, a.c_0 = a.c_n;
  plan_forward(c.problem, c.kernel, a);
}

void on_threads(const Wave& w) {
  team_run(
      w.layers, static_cast<int64_t>(w.phases()),
      [](const void* p, int64_t phase, int task, int) { run_call(*static_cast<const Wave*>(p), task, phase - task); }, &w);
}

// --- on a GPU's streams, a block being a part of a call -------------------------------------------------------------------

// Recomputation cuts a call in its own way, and is asked for where memory is dear.
bool in_parts(const PlanCall& c, const PlanCall& first, bool backward) {
  return c.args.batch > 0 && c.problem.reverse == first.problem.reverse &&
         !(c.problem.recompute && (backward || c.args.reserve));
}

// A phase lasts as long as the slowest layer, or as all where each fills the GPU. The host may be what everything waits for.
double on_streams_us(const Wave& w) {
  double longest = 0, full = 0;
  for (int i = 0; i < w.layers; ++i) {
    const PlanCall& c = w.calls[i];
    const double us = w.block_us(i, 1);
    longest = std::max(longest, us);
    full += us * c.kernel.share(c.problem, c.args.batch, w.backward);
  }
  return std::max(w.phases() * std::max(longest, full), static_cast<double>(w.blocks() * w.layers) * kCallUs);
}

void on_streams(const Wave& w) {
  void* const own = w.calls[0].args.cuda_stream;
  SideStreams sides(w.calls[0].problem.device_index, own, w.layers - 1);
  const auto stream = [&](int place) { return place > 0 ? sides[place - 1] : own; };
  for (int64_t n = 0; n < w.blocks(); ++n) {
    // Of the walk; BPTT goes through it, and through the layers, the other way.
    const int64_t first = (w.backward ? w.blocks() - 1 - n : n) * w.steps;
    for (int place = 0; place < w.layers; ++place) {
      const PlanCall& c = w.calls[w.backward ? w.layers - 1 - place : place];
      Part part{c.args, first, std::min(first + w.steps, w.seq_len)};
      part.flags |= kPart;
      part.cuda_stream = stream(place);
      if (place > 0) sides.order(stream(place - 1), stream(place));
      (w.backward ? plan_backward : plan_forward)(c.problem, c.kernel, part);
    }
  }
  sides.join();
}

// RNNKERN_GPU_WAVE: steps of a block in the place of the model's choice, 0 for layer after layer; -1: as the model chooses.
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

Wave best_wave(const PlanCall* calls, int layers, bool backward) {
  const int64_t T = calls[0].args.seq_len;
  Wave best{calls, layers, backward, T, T};
  const int threads = team_size();
  if (layers < 2 || T < 2 * kLeastSteps) return best;
  const auto may = [&](const PlanCall& c) {
    return best.on_cpu() ? !backward && in_calls(c) : in_parts(c, calls[0], backward);
  };
  if ((best.on_cpu() && threads < 2) || !std::all_of(calls, calls + layers, may)) return best;
  const int64_t wanted = best.on_cpu() ? -1 : wanted_steps();
  if (wanted >= 0) {
    best.steps = wanted > 0 && wanted < T ? wanted : T;
    return best;
  }
  double least = best.in_turn_us(threads) / kWorth;
  for (int64_t steps = kLeastSteps; steps <= T / 2; steps *= 2) {
    const Wave wave{calls, layers, backward, steps, T};
    const double us = wave.on_cpu() ? on_threads_us(wave, threads) : on_streams_us(wave);
    if (us < least) least = us, best = wave;
  }
  return best;
}

void run(const PlanCall* calls, int layers, bool backward) {
  const Wave wave = best_wave(calls, layers, backward);
  if (wave.steps == wave.seq_len) return in_turn(wave);
  if (wave.on_cpu()) on_threads(wave);
  else on_streams(wave);
}

// So many layers at a time.
int most(const PlanCall* calls, int layers) {
  return calls[0].problem.device == RNNK_CPU ? layers : std::min(layers, kMostSides + 1);
}

}  // namespace

void forward_stack(const PlanCall* calls, int layers) {
  for (int done = 0; done < layers;) {
    const int now = most(calls, layers - done);
    run(calls + done, now, false);
    done += now;
  }
}

void backward_stack(const PlanCall* calls, int layers) {
  while (layers > 0) {
    const int now = most(calls, layers);
    run(calls + layers - now, now, true);
    layers -= now;
  }
}

}  // namespace rnnk
