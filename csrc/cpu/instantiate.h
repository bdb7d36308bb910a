// From templates to a kernel record: every cell of the list, in float and double, over the V of one ISA file.
#pragma once
#include "core/cells.generated.h"
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

template <class Driver>
void set_rows(Driver& f, const rnnk_args& args) {
  if (!args.lengths) return;
  sort_rows(args.lengths, args.batch, f.order, f.sorted_lengths);
  f.rows.order = f.order;
  f.rows.lengths = f.sorted_lengths;
}

template <class V, class Cell>
void run_forward(const Problem& problem, const rnnk_args& args) {
  using F = Forward<V, Cell>;
  F f(problem, args);
  set_rows(f, args);
  const Schedule plan = Cost<V, Cell>{f.d, false}.choose(args.seq_len, args.batch, team_size());
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
template <class V, class Cell>
struct BackwardJob {
  using T = typename V::T;
  using F = Backward<V, Cell>;
  const Problem& problem;
  const rnnk_args& args;
  struct Target {
    void* to;
    int64_t count;
    T* sum;
  } targets[4];
  F f;
  int64_t bytes;

  static Gradients<T> gradients(const Target (&t)[4]) {
    Gradients<T> g;
    g.weight_ih = t[0].sum, g.weight_hh = t[1].sum, g.bias_ih = t[2].sum, g.bias_hh = t[3].sum;
    return g;
  }
  BackwardJob(const Problem& p, const rnnk_args& a)
      : problem(p), args(a),
        targets{{a.dweight_ih, Cell::kGates * p.hidden_size * p.input_size, static_cast<T*>(a.dweight_ih)},
                {a.dweight_hh, Cell::kGates * p.hidden_size * p.output_size, static_cast<T*>(a.dweight_hh)},
                {a.dbias_ih, Cell::kGates * p.hidden_size, static_cast<T*>(a.dbias_ih)},
                {a.dbias_hh, Cell::kGates * p.hidden_size, static_cast<T*>(a.dbias_hh)}},
        f(p, a, gradients(targets)) {
    Carver c(a.workspace ? static_cast<char*>(a.workspace) + f.bytes : nullptr);
    for (auto& target : targets) {
      if (p.dtype == native_dtype<T>()) continue;
      T* sum = c.take<T>(target.count);
      target.sum = target.to ? sum : nullptr;
    }
    f.blocks.to = gradients(targets);
    bytes = f.bytes + c.used();
  }

  void begin(const Part& part, int task, int tasks) const {
    f.begin(part);
    const Part share = unit_share(f.rows, task, tasks);
    for (const auto& target : targets) {
      if (!target.sum) continue;
      for (int64_t i = share.first(target.count); i < share.last(target.count); ++i) target.sum[i] = 0;
    }
  }
  void end(const Part& part, int task, int tasks) const {
    f.end(part);
    const Part share = unit_share(f.rows, task, tasks);
    for (const auto& target : targets) {
      if (!target.sum || problem.dtype == native_dtype<T>()) continue;
      for (int64_t i = share.first(target.count); i < share.last(target.count); ++i) {
        write<T>(target.to, problem.dtype, i, target.sum[i]);
      }
    }
  }

  // by_rows: a task's rows run through all steps of a block in one phase.
  int64_t step_phases(bool by_rows) const { return by_rows ? 1 : f.blocks.steps * F::sub_phases(); }
  int64_t phases(bool by_rows) const { return 2 + f.block_count() * (step_phases(by_rows) + f.blocks.phases()); }

  void phase(int64_t n, bool by_rows, int task, int tasks) const {
    const Part units = unit_share(f.rows, task, tasks), mine = by_rows ? row_share(f.rows, task, tasks) : units;
    if (n == 0) return begin(mine, task, tasks);
    if (n == phases(by_rows) - 1) return end(mine, task, tasks);
    const int64_t per_block = step_phases(by_rows) + f.blocks.phases();
    const int64_t first = (n - 1) / per_block * f.blocks.steps, i = (n - 1) % per_block;
    const int64_t last = smaller(first + f.blocks.steps, f.rows.steps);
    if (i >= step_phases(by_rows)) {
      return f.blocks.phase(f.rows, f.reserve, f.weights, first, i - step_phases(by_rows), units);
    }
    const int64_t from = by_rows ? 0 : i, to = by_rows ? f.blocks.steps * F::sub_phases() : i + 1;
    for (int64_t j = from; j < to; ++j) {
      const int64_t u = first + j / F::sub_phases();
      if (u < last) f.block_step(u, static_cast<int>(j % F::sub_phases()), mine);
    }
  }
};

template <class V, class Cell>
void run_backward(const Problem& problem, const rnnk_args& args) {
  using J = BackwardJob<V, Cell>;
  J job(problem, args);
  set_rows(job.f, args);
  const Schedule plan = Cost<V, Cell>{job.f.d, true}.choose(args.seq_len, args.batch, team_size());
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

template <class V, class Cell>
Sizes sizes_of(const Problem& problem, int64_t seq_len, int64_t batch) {
  rnnk_args args{};
  args.seq_len = seq_len;
  args.batch = batch;
  const Layout<V, Cell> d(problem);
  Sizes out{};
  out.packed = Packed<V, Cell>(d, nullptr).bytes;
  out.reserve = Reserve<V, Cell>(d, seq_len, batch, nullptr).bytes;
  out.workspace_forward = Forward<V, Cell>(problem, args).bytes;
  out.workspace_backward = BackwardJob<V, Cell>(problem, args).bytes;
  return out;
}

template <class V, class Cell>
double estimate_of(const Problem& problem, int64_t seq_len, int64_t batch, bool backward, int threads) {
  return Cost<V, Cell>{Layout<V, Cell>(problem), backward}.choose(seq_len, batch, threads).us;
}

template <class V, class Cell>
void pack_of(const Problem& problem, const rnnk_weights& w, bool backward, void* packed) {
  struct Job {
    const Problem& problem;
    Parameters from;
    bool backward;
    void* packed;
  } const job{problem, {w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh}, backward, packed};
  // Below 64 Ki weights (some 30 us) waking a worker costs more than it saves.
  const int64_t weights = Cell::kGates * problem.hidden_size * (problem.input_size + problem.output_size);
  team_run(
      weights < (1 << 16) ? 1 : team_size(), 1,
      [](const void* p, int64_t, int task, int tasks) {
        const Job& job = *static_cast<const Job*>(p);
        pack<V, Cell>(job.problem, job.from, job.backward, job.packed, Part{0, 0, task, tasks});
      },
      &job);
}

// Calls Fn::run<V, Cell>(args...) for the problem's cell and compute type.
template <class VF, class VD, template <class, class> class Fn, class... Args>
auto dispatch(const Problem& p, Args&&... args) {
  switch (p.cell * 2 + (p.dtype == RNNK_FLOAT64)) {
#define RNNK_CELL(value, name, type)                      \
  case (value) * 2: return Fn<VF, type>::run(p, args...); \
  case (value) * 2 + 1: return Fn<VD, type>::run(p, args...);
#include "rnnkern/cells.inc"
#undef RNNK_CELL
  }
  return decltype(Fn<VF, Linear>::run(p, args...))();
}

#define RNNK_OPERATION(Name, function)                  \
  template <class V, class Cell>                        \
  struct Name {                                         \
    template <class... Args>                            \
    static auto run(const Problem& p, Args&&... args) { \
      return function<V, Cell>(p, args...);             \
    }                                                   \
  };
RNNK_OPERATION(SizesOf, sizes_of)
RNNK_OPERATION(EstimateOf, estimate_of)
RNNK_OPERATION(PackOf, pack_of)
RNNK_OPERATION(ForwardOf, run_forward)
RNNK_OPERATION(BackwardOf, run_backward)
#undef RNNK_OPERATION

inline bool accepts_all(const Problem&, char*, int64_t) { return true; }

template <class VF, class VD>
constexpr Kernel cpu_kernel(const char* name, uint32_t features) {
  return {name,
          RNNK_CPU,
          features,
          accepts_all,
          [](const Problem& p, int64_t t, int64_t b, bool back, int threads) {
            return dispatch<VF, VD, EstimateOf>(p, t, b, back, threads);
          },
          [](const Problem& p, int64_t t, int64_t b) { return dispatch<VF, VD, SizesOf>(p, t, b); },
          [](const Problem& p, const rnnk_weights& w, bool back, void* to) { dispatch<VF, VD, PackOf>(p, w, back, to); },
          [](const Problem& p, const rnnk_args& a) { dispatch<VF, VD, ForwardOf>(p, a); },
          [](const Problem& p, const rnnk_args& a) { dispatch<VF, VD, BackwardOf>(p, a); }};
}

}  // namespace
}  // namespace rnnk
