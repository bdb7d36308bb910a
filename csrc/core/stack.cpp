#include "core/stack.h"

#include <algorithm>

#include "core/recompute.h"
#include "core/storage.h"
#include "core/team.h"

namespace rnnk {
namespace {

constexpr double kPhaseUs = 1;      // for all threads to meet
constexpr double kWorth = 1.2;      // as in beside.cpp: estimates are good to tens of percent
constexpr int64_t kLeastSteps = 8;  // of a block: below, what a call costs beside its steps shows

// A wavefront passes a layer's states on through h_n and c_n: they must be there, and in the type they are computed in.
bool in_blocks(const PlanCall& c) {
  const rnnk_args& a = c.args;
  const int state = c.problem.dtype == RNNK_FLOAT64 ? RNNK_FLOAT64 : RNNK_FLOAT32;
  const bool cell_state = cell_info(c.problem.cell)->states > 1;
  return c.problem.device == RNNK_CPU && !c.problem.reverse && !a.reserve && !a.lengths && !a.mask && !a.reset &&
         !(a.flags & RNNK_TRAIN) && a.batch > 0 && a.h_n.data && (!cell_state || (a.c_n.data && a.c_n.dtype == state));
}

struct Wave {
  const PlanCall* calls;
  int64_t steps, seq_len;  // of a block, of all

  int64_t blocks() const { return (seq_len + steps - 1) / steps; }
  int64_t phases(int layers) const { return blocks() + layers - 1; }

  void run(int layer, int64_t block) const {
    if (block < 0 || block >= blocks()) return;
    const PlanCall& c = calls[layer];
    const int64_t first = block * steps;
    rnnk_args a = c.args;
    a.seq_len = std::min(steps, seq_len - first);
    a.x.data = at(a.x, first * a.x.stride[0]);
    a.y.data = at(a.y, first * a.y.stride[0]);
    if (block > 0) a.h_0 = a.h_n, a.c_0 = a.c_n;
    plan_forward(c.problem, c.kernel, a);
  }
};

double estimate(const PlanCall* calls, int layers, int64_t steps, int threads) {
  double us = 0;
  for (int i = 0; i < layers; ++i)
    us += calls[i].kernel.estimate(calls[i].problem, steps, calls[i].args.batch, false, threads);
  return us;
}

}  // namespace

void forward_stack(const PlanCall* calls, int layers) {
  const int64_t T = calls[0].args.seq_len;
  const int threads = team_size();
  Wave best{calls, T, T};
  if (threads > 1 && layers > 1 && T >= 2 * kLeastSteps && std::all_of(calls, calls + layers, in_blocks)) {
    double least = estimate(calls, layers, T, threads) / kWorth;
    for (int64_t steps = kLeastSteps; steps <= T / 2; steps *= 2) {
      const Wave wave{calls, steps, T};
      // A phase lasts as long as the layers that share a thread.
      const double share = std::max(1.0, static_cast<double>(layers) / threads) / layers;
      const double us = static_cast<double>(wave.phases(layers)) * (estimate(calls, layers, steps, 1) * share + kPhaseUs);
      if (us < least) least = us, best = wave;
    }
  }
  if (best.steps == T) {
    for (int i = 0; i < layers; ++i) plan_forward(calls[i].problem, calls[i].kernel, calls[i].args);
    return;
  }
  team_run(
      layers, best.phases(layers),
      [](const void* p, int64_t phase, int task, int) { static_cast<const Wave*>(p)->run(task, phase - task); }, &best);
}

}  // namespace rnnk
