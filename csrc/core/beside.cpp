#include "core/beside.h"

#include <algorithm>

#include "core/carver.h"
#include "core/device.h"
#include "core/recompute.h"
#include "core/storage.h"
#include "core/team.h"

namespace rnnk {
namespace {

constexpr double kJobUs = 4;    // to wake a worker and to meet it again
constexpr double kForkUs = 30;  // a GPU's events and waits, on the host and there: a guess
// Estimates are good to tens of percent, and what is wrong by that much side by side may be wrong by a factor: one core then
// reads from further away than two that share a direction (GRU, H = 512, B = 1: 0.54 of the speed).
constexpr double kWorth = 1.2;

using Run = void (*)(const Problem&, const Kernel&, const rnnk_args&);
void run(Run fn, const PlanCall& c) { fn(c.problem, c.kernel, c.args); }

double estimate(const PlanCall& c, bool backward, int threads) {
  return c.kernel.estimate(c.problem, c.args.seq_len, c.args.batch, backward, threads);
}

bool on_cpu(const PlanCall& c) { return c.problem.device == RNNK_CPU; }
bool on_one_gpu(const PlanCall& one, const PlanCall& other) {
  return !on_cpu(one) && !on_cpu(other) && one.problem.device_index == other.problem.device_index &&
         one.args.cuda_stream == other.args.cuda_stream;
}

// Whether side by side is faster, though it takes extra_us afterwards (on a GPU too little to count).
bool worth_it(const PlanCall& one, const PlanCall& other, bool backward, double extra_us) {
  if (on_one_gpu(one, other)) return std::min(estimate(one, backward, 1), estimate(other, backward, 1)) >= kForkUs;
  if (!on_cpu(one) || !on_cpu(other)) return false;
  const int threads = team_size();
  const double in_turn = estimate(one, backward, threads) + estimate(other, backward, threads);
  const double side_by_side = std::max(estimate(one, backward, 1), estimate(other, backward, 1)) + kJobUs + extra_us;
  return threads > 1 && side_by_side * kWorth < in_turn;
}

void on_two_streams(Run fn, const PlanCall& one, const PlanCall& other) {
  SideStreams sides(one.problem.device_index, one.args.cuda_stream, 1);
  rnnk_args beside = other.args;
  beside.cuda_stream = sides[0];
  fn(other.problem, other.kernel, beside);
  run(fn, one);
  sides.join();
}

void side_by_side(Run fn, const PlanCall& one, const PlanCall& other) {
  if (!on_cpu(one)) return on_two_streams(fn, one, other);
  struct Job {
    Run fn;
    const PlanCall* calls[2];
  } const job{fn, {&one, &other}};
  team_run(
      2, 1,
      [](const void* p, int64_t, int task, int) {
        const Job& j = *static_cast<const Job*>(p);
        run(j.fn, *j.calls[task]);
      },
      &job);
}

// --- dx of its own ---------------------------------------------------------------------------------------------------------

int dx_dtype(const Problem& p) { return p.dtype == RNNK_FLOAT64 ? RNNK_FLOAT64 : RNNK_FLOAT32; }

bool adds_to(const PlanCall& other, const PlanCall& one) {
  return other.args.dx.data && other.args.dx.data == one.args.dx.data && (other.args.flags & RNNK_ACCUMULATE_DX);
}

// What a kernel does that accumulates: each element of a step that is, once, in the type of computation.
template <class T>
void add(const rnnk_args& a, const rnnk_tensor& more, int64_t columns) {
  struct Job {
    const rnnk_args& a;
    const rnnk_tensor& more;
    int64_t columns;
  } const job{a, more, columns};
  const int64_t rows = a.seq_len * a.batch;
  team_run(
      rows * columns < (1 << 16) ? 1 : team_size(), 1,
      [](const void* p, int64_t, int task, int tasks) {
        const Job& j = *static_cast<const Job*>(p);
        const int64_t all = j.a.seq_len * j.a.batch;
        for (int64_t row = all * task / tasks; row < all * (task + 1) / tasks; ++row) {
          const int64_t t = row / j.a.batch, b = row % j.a.batch;
          if ((j.a.lengths && t >= j.a.lengths[b]) || (j.a.mask && !j.a.mask[row])) continue;
          const Row to = row3(j.a.dx, t, b);
          const T* const from = static_cast<const T*>(j.more.data) + row * j.columns;
          for (int64_t i = 0; i < j.columns; ++i) {
            write<T>(to.data, to.dtype, i * to.stride, read<T>(to.data, to.dtype, i * to.stride) + from[i]);
          }
        }
      },
      &job);
}

constexpr double kAddUs = 1e-3;  // an element, on one thread
// Workspaces do not grow with T without end: a longer dx is not formed apart. On a CPU what is worth it is smaller anyway.
constexpr int64_t kMostApart = 8 << 20, kMostApartOnGpu = 128 << 20;

// Bytes of a dx apart; 0: one after the other.
int64_t apart_bytes(const PlanCall& one, const PlanCall& other) {
  const Problem& p = other.problem;
  const int64_t elements = other.args.seq_len * other.args.batch * p.input_size;
  const int64_t bytes = line(elements * item_size(dx_dtype(p)));
  // Recomputation is asked for where memory is dear.
  if (p.recompute || one.problem.recompute || bytes > (on_cpu(other) ? kMostApart : kMostApartOnGpu)) return 0;
  return worth_it(one, other, true, kAddUs * static_cast<double>(elements)) ? bytes : 0;
}

int64_t own_workspace(const PlanCall& c) {
  return line(plan_sizes(c.problem, c.kernel, c.args.seq_len, c.args.batch).workspace_backward);
}

}  // namespace

void forward_both(const PlanCall& one, const PlanCall& other) {
  if (worth_it(one, other, false, 0)) return side_by_side(plan_forward, one, other);
  run(plan_forward, one);
  run(plan_forward, other);
}

int64_t backward_both_workspace(const PlanCall& one, const PlanCall& other) {
  return own_workspace(other) + apart_bytes(one, other);
}

void backward_both(const PlanCall& one, const PlanCall& other) {
  const Problem& p = other.problem;
  const rnnk_args& a = other.args;
  const bool adds = adds_to(other, one);
  const int64_t own = own_workspace(other), bytes = adds ? apart_bytes(one, other) : 0;
  const bool room = bytes > 0 && a.workspace_size >= static_cast<size_t>(own + bytes);
  if (adds ? !room : !worth_it(one, other, true, 0)) {
    run(plan_backward, one);
    run(plan_backward, other);
    return;
  }
  if (!adds) return side_by_side(plan_backward, one, other);
  rnnk_args apart = a;
  apart.dx = {static_cast<char*>(a.workspace) + own, {a.batch * p.input_size, p.input_size, 1}, dx_dtype(p)};
  apart.flags &= ~uint32_t{RNNK_ACCUMULATE_DX};
  side_by_side(plan_backward, one, {p, other.kernel, apart});
  if (!on_cpu(one)) return device_add(p, a, apart.dx);
  if (dx_dtype(p) == RNNK_FLOAT64) add<double>(a, apart.dx, p.input_size);
  else add<float>(a, apart.dx, p.input_size);
}

}  // namespace rnnk
