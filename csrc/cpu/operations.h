// A kernel's operations on one problem: sizes, schedule, pack, and the drivers on the thread team. They are compiled once for each
// arithmetic; what belongs to one cell comes as a CellCode.
#pragma once
#include "core/kernel.h"
#include "core/team.h"
#include "cpu/backward.h"
#include "cpu/forward.h"

namespace rnnk {
namespace {

// First sorted row of share i of n, so that every share has about the same number of steps to do.
inline int64_t row_boundary(const Rows& rows, int i, int n) {
  if (!rows.lengths) return rows.batch * i / n;
  if (i == n) return rows.batch;
  int64_t total = 0, sum = 0, r = 0;
  for (int64_t k = 0; k < rows.batch; ++k) total += rows.lengths[k];
  while (r < rows.batch && sum < total * i / n) sum += rows.lengths[r++];
  return r;
}
inline Part row_share(const Rows& rows, int i, int n) {
  return {row_boundary(rows, i, n), row_boundary(rows, i + 1, n), 0, 1};
}
inline Part unit_share(const Rows& rows, int i, int n) { return {0, rows.batch, i, n}; }

// A cell as a driver sees it: its shape and its steps.
template <class A>
struct CellCode {
  const CellShape& shape;
  typename Forward<A>::Step forward;
  typename Backward<A>::Step backward;
};

template <class A>
void run_forward(const CellCode<A>& cell, const Problem& problem, const LayerCall& args, const WeightUnit* unit = nullptr) {
  using F = Forward<A>;
  F f(problem, cell.shape, args, cell.forward, unit);
  const Schedule plan = Cost<A>{f.d, false, unit}.choose(args.seq_len, args.batch, team_size(), args.unpacked);
  if (plan.by_rows) {
    team_run(
        plan.tasks, 1,
        [](const void* job, int64_t, int task, int tasks) {
          const F& f = *static_cast<const F*>(job);
          const Part part = row_share(f.rows, task, tasks);
          for (int64_t n = 0; n < f.phases(); ++n) f.phase(n, part);
        },
        &f);
  } else {
    team_run(
        plan.tasks, f.phases(),
        [](const void* job, int64_t phase, int task, int tasks) {
          const F& f = *static_cast<const F*>(job);
          f.phase(phase, unit_share(f.rows, task, tasks));
        },
        &f);
  }
}

// Half types: parameter gradients are summed in float here and rounded once at the end.
template <class A>
struct BackwardJob {
  using T = typename A::T;
  using F = Backward<A>;
  const Problem& problem;
  const LayerCall& args;
  struct Target {
    void* to;
    int64_t count;
    T* sum;
    bool matrix;
  } targets[6];
  F f;
  int64_t bytes;

  static Gradients<T> gradients(const Target (&t)[6]) {
    Gradients<T> g;
    g.weight_ih = t[0].sum, g.weight_hh = t[1].sum, g.bias_ih = t[2].sum, g.bias_hh = t[3].sum;
    g.weight_hr = t[4].sum, g.params = t[5].sum;
    return g;
  }
  BackwardJob(const CellCode<A>& cell, const Problem& p, const LayerCall& a)
      : problem(p), args(a),
        targets{
            {a.dweight_ih, cell.shape.gates * p.hidden_size * p.input_size, static_cast<T*>(a.dweight_ih), true},
            {a.dweight_hh, cell.shape.gates * p.hidden_size * p.weight_hh_columns(), static_cast<T*>(a.dweight_hh), true},
            {a.dbias_ih, cell.shape.gates * p.hidden_size, static_cast<T*>(a.dbias_ih), false},
            {a.dbias_hh, cell.shape.gates * p.hidden_size, static_cast<T*>(a.dbias_hh), false},
            {a.dweight_hr, p.output_size * p.hidden_size, static_cast<T*>(a.dweight_hr), true},
            {a.dparams, param_rows(p) * p.hidden_size, static_cast<T*>(a.dparams), false}},
        f(p, cell.shape, a, gradients(targets), cell.backward) {
    Carver c(a.workspace ? static_cast<char*>(a.workspace) + f.bytes : nullptr);
    for (auto& target : targets) {
      if (in_place()) continue;
      T* sum = c.take<T>(target.count);
      target.sum = target.to ? sum : nullptr;
    }
    f.blocks.to = gradients(targets);
    bytes = f.bytes + c.used();
  }

  // The targets are the sums: there is nothing to round.
  bool in_place() const { return problem.dtype == native_dtype<T>() || !args.store_sums; }

  void begin(const Part& part, int task, int tasks) const {
    f.begin(part);
    if (!args.start_sums) return;
    const Part share = unit_share(f.rows, task, tasks);
    for (const auto& target : targets) {
      if (!target.sum || (target.matrix && f.block_count() > 0)) continue;  // the first chunk stores matrices
      for (int64_t i = share.first(target.count); i < share.last(target.count); ++i) target.sum[i] = 0;
    }
  }
  void end(const Part& part, int task, int tasks) const {
    f.end(part);
    const Part share = unit_share(f.rows, task, tasks);
    for (const auto& target : targets) {
      if (!target.sum || in_place()) continue;
      const Row row{static_cast<char*>(target.to), 1, problem.dtype};
      for (int64_t i = share.first(target.count), end = share.last(target.count); i < end; i += A::V::lanes) {
        const int64_t n = smaller<int64_t>(A::V::lanes, end - i);
        store_units<A>(row, i, n, A::V::load_n(target.sum + i, n));
      }
    }
  }

  // by_rows: a task's rows run through all steps of a block in one phase.
  int64_t step_phases(bool by_rows) const { return by_rows ? 1 : f.blocks.steps * backward_phases(f.d.shape); }
  int64_t phases(bool by_rows) const { return 2 + f.block_count() * (step_phases(by_rows) + f.blocks.phases()); }

  void phase(int64_t n, bool by_rows, int task, int tasks) const {
    const Part units = unit_share(f.rows, task, tasks), mine = by_rows ? row_share(f.rows, task, tasks) : units;
    if (n == 0) return begin(mine, task, tasks);
    if (n == phases(by_rows) - 1) return end(mine, task, tasks);
    const int64_t per_block = step_phases(by_rows) + f.blocks.phases();
    const int64_t first = (n - 1) / per_block * f.blocks.steps, i = (n - 1) % per_block;
    const int64_t last = smaller(first + f.blocks.steps, f.rows.steps);
    if (i >= step_phases(by_rows)) {
      return f.blocks.phase(f.rows, f.extras, f.reserve, f.weights, first, i - step_phases(by_rows), units);
    }
    const int64_t from = by_rows ? 0 : i, to = by_rows ? f.blocks.steps * backward_phases(f.d.shape) : i + 1;
    for (int64_t j = from; j < to; ++j) {
      const int64_t u = first + j / backward_phases(f.d.shape);
      if (u < last) f.step(f, u, static_cast<int>(j % backward_phases(f.d.shape)), mine);
    }
  }
};

template <class A>
void run_backward(const CellCode<A>& cell, const Problem& problem, const LayerCall& args) {
  using J = BackwardJob<A>;
  J job(cell, problem, args);
  const Schedule plan = Cost<A>{job.f.d, true}.choose(args.seq_len, args.batch, team_size(), args.unpacked);
  if (plan.by_rows) {
    team_run(
        plan.tasks, job.phases(true),
        [](const void* j, int64_t phase, int task, int tasks) { static_cast<const J*>(j)->phase(phase, true, task, tasks); },
        &job);
  } else {
    team_run(
        plan.tasks, job.phases(false),
        [](const void* j, int64_t phase, int task, int tasks) {
          static_cast<const J*>(j)->phase(phase, false, task, tasks);
        },
        &job);
  }
}

template <class A>
int64_t bytes_of(const CellCode<A>& cell, const Problem& problem, Space space, int64_t seq_len, int64_t batch) {
  LayerCall args;
  args.seq_len = seq_len;
  args.batch = batch;
  const Layout<A> d(problem, cell.shape);
  switch (space) {
    case Space::packed: return Packed<A>(d, nullptr).bytes;
    case Space::backward:
      if (problem.form != WeightForm::own) return 0;
      return BackwardJob<A>(cell, problem, args).bytes;
    case Space::reserve: return Reserve<A>(d, seq_len, batch, nullptr).bytes;
    default: return Forward<A>(problem, cell.shape, args, cell.forward).bytes;
  }
}

template <class A>
Schedule schedule_of(const CellCode<A>& cell, const Problem& problem, int64_t seq_len, int64_t batch, bool backward,
                     int threads, const WeightUnit* unit = nullptr) {
  return Cost<A>{Layout<A>(problem, cell.shape), backward, unit}.choose(seq_len, batch, threads);
}

template <class A>
void pack_weights(const CellCode<A>& cell, const Problem& problem, const Parameters& from, Halves halves, void* packed) {
  struct Job {
    const Problem& problem;
    const CellShape& shape;
    const Parameters& from;
    Halves halves;
    void* packed;
  } const job{problem, cell.shape, from, halves, packed};
  const int64_t weights = cell.shape.gates * problem.hidden_size * (problem.input_size + problem.output_size);
  team_run(
      weights < costs::kSmallPack ? 1 : team_size(), 1,
      [](const void* p, int64_t, int task, int tasks) {
        const Job& job = *static_cast<const Job*>(p);
        pack<A>(job.problem, job.shape, job.from, job.halves, job.packed, Part{0, 0, task, tasks});
      },
      &job);
}

}  // namespace
}  // namespace rnnk
