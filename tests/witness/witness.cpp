// The two shape witnesses over the CPU driver's text, as C functions for ctypes (tests/test_witness.py).
//
// A shipping kernel chooses its split; here the caller names it, so that every split can be held against every other. The
// phases and shares are the driver's own. weight_hr and the per-unit parameters, which the C ABI does not carry yet, go
// straight into the driver's structs. Matrices are contiguous; nothing is checked.
#include <algorithm>

#include "cpu/instantiate.h"
#include "gru_reset_before.h"
#include "lanes.h"
#include "lstm_ln_proj.h"

using namespace rnnk;

extern "C" {
// Field for field the Structure of test_witness.py.
struct witness_call {
  int64_t cell;   // 0 gru_reset_before, 1 lstm_ln_proj
  int64_t lanes;  // 1: the vectors of cpu_scalar; 4: four of them side by side
  int64_t dtype, reverse, input_size, hidden_size, output_size, seq_len, batch;
  int64_t tasks, by_rows;  // the split
  int64_t order;           // of the tasks of a phase: 0 as the team takes them, 1 ascending, 2 descending
  const int64_t* lengths;
  const void *weight_ih, *weight_hh, *bias_ih, *bias_hh, *weight_hr, *params;
  void *x, *h_0, *c_0, *y, *h_n, *c_n, *dy, *dh_n, *dc_n, *dx, *dh_0, *dc_0;
  void *dweight_ih, *dweight_hh, *dbias_ih, *dbias_hh, *dweight_hr, *dparams;
  void *packed, *reserve, *workspace;
};
}

namespace {

Problem problem_of(const witness_call& c) {
  Problem p;
  p.dtype = static_cast<int>(c.dtype), p.reverse = c.reverse != 0, p.bias = c.bias_ih != nullptr;
  p.input_size = c.input_size, p.hidden_size = c.hidden_size, p.output_size = c.output_size;
  return p;
}

rnnk_args args_of(const witness_call& c) {
  const int32_t dtype = static_cast<int32_t>(c.dtype);
  const auto steps = [&](void* data, int64_t n) { return rnnk_tensor{data, {c.batch * n, n, 1}, dtype}; };
  const auto rows = [&](void* data, int64_t n) { return rnnk_tensor{data, {n, 1, 0}, dtype}; };
  const int64_t I = c.input_size, H = c.hidden_size, P = c.output_size;
  rnnk_args a{};
  a.seq_len = c.seq_len, a.batch = c.batch, a.lengths = c.lengths;
  a.packed = c.packed, a.reserve = c.reserve, a.workspace = c.workspace;
  a.x = steps(c.x, I), a.y = steps(c.y, P), a.dy = steps(c.dy, P), a.dx = steps(c.dx, I);
  a.h_0 = rows(c.h_0, P), a.h_n = rows(c.h_n, P), a.dh_n = rows(c.dh_n, P), a.dh_0 = rows(c.dh_0, P);
  a.c_0 = rows(c.c_0, H), a.c_n = rows(c.c_n, H), a.dc_n = rows(c.dc_n, H), a.dc_0 = rows(c.dc_0, H);
  a.dweight_ih = c.dweight_ih, a.dweight_hh = c.dweight_hh, a.dbias_ih = c.dbias_ih, a.dbias_hh = c.dbias_hh;
  return a;
}

void run_tasks(const witness_call& c, int64_t phases, TaskFn fn, const void* job) {
  const int tasks = static_cast<int>(c.tasks);
  if (c.order == 0) return team_run(tasks, phases, fn, job);
  for (int64_t phase = 0; phase < phases; ++phase) {
    for (int i = 0; i < tasks; ++i) fn(job, phase, c.order == 1 ? i : tasks - 1 - i, tasks);
  }
}

template <class A, class Cell>
struct Calls {
  using T = typename A::T;

  static void sizes(const witness_call& c, int64_t* out) {
    const Sizes s = sizes_of<A, Cell>(problem_of(c), c.seq_len, c.batch);
    out[0] = s.packed, out[1] = s.reserve, out[2] = std::max(s.workspace_forward, s.workspace_backward);
  }

  static void pack(const witness_call& c, int64_t*) {
    const Parameters from{c.weight_ih, c.weight_hh, c.bias_ih, c.bias_hh, c.weight_hr, c.params};
    const int tasks = static_cast<int>(c.tasks);
    for (int i = 0; i < tasks; ++i)
      rnnk::pack<A, Cell>(problem_of(c), from, rnnk::Halves{true, true}, c.packed, Part{0, 0, i, tasks});
  }

  static void forward(const witness_call& c, int64_t*) {
    using F = Forward<A, Cell>;
    const Problem problem = problem_of(c);
    const rnnk_args args = args_of(c);
    F f(problem, args);
    set_rows(f, args);
    const TaskFn by_rows = [](const void* job, int64_t, int task, int tasks) {
      const F& f = *static_cast<const F*>(job);
      for (int64_t n = 0; n < f.phases(); ++n) f.phase(n, row_share(f.rows, task, tasks));
    };
    const TaskFn by_units = [](const void* job, int64_t phase, int task, int tasks) {
      const F& f = *static_cast<const F*>(job);
      f.phase(phase, unit_share(f.rows, task, tasks));
    };
    run_tasks(c, c.by_rows ? 1 : f.phases(), c.by_rows ? by_rows : by_units, &f);
  }

  static void backward(const witness_call& c, int64_t*) {
    using J = BackwardJob<A, Cell>;
    const Problem problem = problem_of(c);
    const rnnk_args args = args_of(c);
    J job(problem, args);
    set_rows(job.f, args);
    auto& to = job.f.blocks.to;
    to.weight_hr = static_cast<T*>(c.dweight_hr), to.params = static_cast<T*>(c.dparams);
    if (to.weight_hr) std::fill_n(to.weight_hr, c.output_size * c.hidden_size, T(0));
    if (to.params) std::fill_n(to.params, Cell::kParams * c.hidden_size, T(0));
    const TaskFn by_rows = [](const void* job, int64_t phase, int task, int tasks) {
      static_cast<const J*>(job)->phase(phase, true, task, tasks);
    };
    const TaskFn by_units = [](const void* job, int64_t phase, int task, int tasks) {
      static_cast<const J*>(job)->phase(phase, false, task, tasks);
    };
    run_tasks(c, job.phases(c.by_rows), c.by_rows ? by_rows : by_units, &job);
  }

  static void run(const witness_call& c, int what, int64_t* out) {
    constexpr void (*calls[])(const witness_call&, int64_t*) = {sizes, pack, forward, backward};
    calls[what](c, out);
  }
};

template <class F, class D>
void select(const witness_call& c, int what, int64_t* out) {
  const bool wide = c.dtype == RNNK_FLOAT64;
  if (c.cell == 0) return wide ? Calls<D, GruResetBefore>::run(c, what, out) : Calls<F, GruResetBefore>::run(c, what, out);
  return wide ? Calls<D, LstmLayerNormProj>::run(c, what, out) : Calls<F, LstmLayerNormProj>::run(c, what, out);
}

void select(const witness_call& c, int what, int64_t* out = nullptr) {
  if (c.lanes == 1) return select<Native<ScalarF>, Native<ScalarD>>(c, what, out);
  return select<Native<Lanes<ScalarF, 4>>, Native<Lanes<ScalarD, 4>>>(c, what, out);
}

}  // namespace

extern "C" {
// out: bytes of packed, reserve, workspace.
void witness_sizes(const witness_call* c, int64_t* out) { select(*c, 0, out); }
void witness_pack(const witness_call* c) { select(*c, 1); }
void witness_forward(const witness_call* c) { select(*c, 2); }
void witness_backward(const witness_call* c) { select(*c, 3); }
void witness_threads(int32_t n) { team_resize(n); }
}
