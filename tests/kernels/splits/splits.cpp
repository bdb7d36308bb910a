// Two kernels whose split the caller names, for a C library of their own (tests/kernels/test_splits.py).
//
// A shipping kernel chooses its split by an estimate; here splits_choose() says it, so that every split can be held against
// every other. Phases and shares are the driver's own; cells, options, checks and sizes are the library's.
#include "cpu/instantiate.h"
#include "cpu/isa/scalar_vec.h"
#include "lanes.h"

namespace rnnk {
namespace {

struct Split {
  int tasks = 1;
  bool by_rows = true;
  int order = 0;  // of the tasks of a phase: 0 as the team takes them, 1 ascending, 2 descending
} split;          // of all calls: there is one caller

void run_tasks(int64_t phases, TaskFn fn, const void* job) {
  if (split.order == 0) return team_run(split.tasks, phases, fn, job);
  for (int64_t phase = 0; phase < phases; ++phase) {
    for (int i = 0; i < split.tasks; ++i) fn(job, phase, split.order == 1 ? i : split.tasks - 1 - i, split.tasks);
  }
}

template <class A>
void split_pack(const CellCode<A>& cell, const Problem& problem, const Parameters& from, Halves halves, void* packed) {
  const auto share = [&](int task, int tasks) {
    pack<A>(problem, cell.shape, from, halves, packed, Part{0, 0, task, tasks});
  };
  run_tasks(
      1, [](const void* job, int64_t, int task, int tasks) { (*static_cast<decltype(&share)>(job))(task, tasks); }, &share);
}

template <class A>
void split_forward(const CellCode<A>& cell, const Problem& problem, const LayerCall& args) {
  using F = Forward<A>;
  F f(problem, cell.shape, args, cell.forward);
  const TaskFn by_rows = [](const void* job, int64_t, int task, int tasks) {
    const F& f = *static_cast<const F*>(job);
    for (int64_t n = 0; n < f.phases(); ++n) f.phase(n, row_share(f.rows, task, tasks));
  };
  const TaskFn by_units = [](const void* job, int64_t phase, int task, int tasks) {
    const F& f = *static_cast<const F*>(job);
    f.phase(phase, unit_share(f.rows, task, tasks));
  };
  run_tasks(split.by_rows ? 1 : f.phases(), split.by_rows ? by_rows : by_units, &f);
}

template <class A>
void split_backward(const CellCode<A>& cell, const Problem& problem, const LayerCall& args) {
  using J = BackwardJob<A>;
  J job(cell, problem, args);
  const TaskFn phase = [](const void* j, int64_t phase, int task, int tasks) {
    static_cast<const J*>(j)->phase(phase, split.by_rows, task, tasks);
  };
  run_tasks(job.phases(split.by_rows), phase, &job);
}

template <class List>
constexpr Kernel split_kernel(const char* name) {
  return {
      name,
      RNNK_CPU,
      0,
      [](const Problem& p, char*, int64_t) { return p.dtype <= RNNK_FLOAT64; },
      [](const Problem&, int64_t, int64_t, bool, int) { return 0.0; },
      [](const Problem& p, Space space, int64_t t, int64_t b) {
        return dispatch<List>(p, [&](const auto& cell) { return bytes_of(cell, p, space, t, b); });
      },
      gradient_steps,
      nullptr,
      [](const Problem& p, const Parameters& w, Halves halves, void* to) {
        dispatch<List>(p, [&](const auto& cell) { split_pack(cell, p, w, halves, to); });
      },
      [](const Problem& p, const LayerCall& a) { dispatch<List>(p, [&](const auto& cell) { split_forward(cell, p, a); }); },
      [](const Problem& p, const LayerCall& a) {
        dispatch<List>(p, [&](const auto& cell) { split_backward(cell, p, a); });
      }};
}

}  // namespace

extern const Kernel lanes_1_kernel, lanes_4_kernel;
const Kernel lanes_1_kernel = split_kernel<Arithmetics<Native<ScalarF>, Native<ScalarD>, Native<ScalarF>>>("lanes_1");
const Kernel lanes_4_kernel =
    split_kernel<Arithmetics<Native<Four<ScalarF>>, Native<Four<ScalarD>>, Native<Four<ScalarF>>>>("lanes_4");

}  // namespace rnnk

extern "C" RNNK_API void splits_choose(int32_t tasks, int32_t by_rows, int32_t order) {
  rnnk::split = {tasks, by_rows != 0, order};
}
