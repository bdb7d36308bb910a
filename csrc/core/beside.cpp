#include "core/beside.h"

#include <algorithm>

#include "core/recompute.h"
#include "core/team.h"

namespace rnnk {
namespace {

constexpr double kJobUs = 4;  // to wake a worker and to meet it again
// Estimates are good to tens of percent, and what is wrong by that much side by side may be wrong by a factor: one core then
// reads from further away than two that share a direction (GRU, H = 512, B = 1: 0.54 of the speed).
constexpr double kWorth = 1.2;

double estimate(const ForwardCall& c, int threads) {
  return c.kernel.estimate(c.problem, c.args.seq_len, c.args.batch, false, threads);
}

}  // namespace

void forward_both(const ForwardCall& one, const ForwardCall& other) {
  const ForwardCall* const calls[2] = {&one, &other};
  // A GPU's work only goes on a stream: there is nothing to run side by side here.
  const int threads = one.problem.device == RNNK_CPU && other.problem.device == RNNK_CPU ? team_size() : 1;
  const double in_turn = estimate(one, threads) + estimate(other, threads);
  const double side_by_side = std::max(estimate(one, 1), estimate(other, 1)) + kJobUs;
  const bool beside = threads > 1 && side_by_side * kWorth < in_turn;
  if (!beside) {
    for (const ForwardCall* c : calls) plan_forward(c->problem, c->kernel, c->args);
    return;
  }
  team_run(
      2, 1,
      [](const void* p, int64_t, int task, int) {
        const ForwardCall& c = *static_cast<const ForwardCall* const*>(p)[task];
        plan_forward(c.problem, c.kernel, c.args);
      },
      calls);
}

}  // namespace rnnk
