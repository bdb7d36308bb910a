#include "core/beside.h"

#include <algorithm>

#include "core/device.h"
#include "core/recompute.h"
#include "core/team.h"

namespace rnnk {
namespace {

constexpr double kJobUs = 4;    // to wake a worker and to meet it again
constexpr double kForkUs = 30;  // a GPU's events and waits, on the host and there: a guess
// Estimates are good to tens of percent, and what is wrong by that much side by side may be wrong by a factor: one core then
// reads from further away than two that share a direction (GRU, H = 512, B = 1: 0.54 of the speed).
constexpr double kWorth = 1.2;

double estimate(const ForwardCall& c, int threads) {
  return c.kernel.estimate(c.problem, c.args.seq_len, c.args.batch, false, threads);
}

// On a GPU: the second call on a stream beside the first one's, where both are worth its events. Returns whether it was.
bool forward_on_two_streams(const ForwardCall& one, const ForwardCall& other) {
  const int index = one.problem.device_index;
  void* const stream = one.args.cuda_stream;
  if (other.problem.device_index != index || other.args.cuda_stream != stream) return false;
  if (std::min(estimate(one, 1), estimate(other, 1)) < kForkUs) return false;
  rnnk_args beside = other.args;
  beside.cuda_stream = fork_stream(index, stream);
  try {
    plan_forward(other.problem, other.kernel, beside);
    plan_forward(one.problem, one.kernel, one.args);
  } catch (const Failure&) {
    join_stream(index, stream, beside.cuda_stream);  // or a capture of the stream could not end
    throw;
  }
  join_stream(index, stream, beside.cuda_stream);
  return true;
}

}  // namespace

void forward_both(const ForwardCall& one, const ForwardCall& other) {
  const ForwardCall* const calls[2] = {&one, &other};
  const bool on_gpus = one.problem.device != RNNK_CPU && other.problem.device != RNNK_CPU;
  if (on_gpus && forward_on_two_streams(one, other)) return;
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
