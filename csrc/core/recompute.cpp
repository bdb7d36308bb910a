#include "core/recompute.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/carver.h"
#include "core/device.h"
#include "core/storage.h"
#include "core/team.h"

namespace rnnk {
namespace {

// How T steps are cut, and where what lies between the pieces is. Bytes; a null base only measures.
struct Segments {
  const Problem& problem;
  const Kernel& kernel;
  int64_t T, B, steps, count;
  int state_dtype;  // of c and of gradients of states: what passes a border unrounded

  Segments(const Problem& p, const Kernel& k, int64_t seq_len, int64_t batch)
      : problem(p), kernel(k), T(seq_len), B(batch), state_dtype(p.dtype == RNNK_FLOAT64 ? RNNK_FLOAT64 : RNNK_FLOAT32) {
    // Memory is steps * (some 5 vectors a row) + T / steps * (2 vectors a row); least at sqrt(2 T / 5).
    const int64_t block = std::max<int64_t>(1, k.gradient_steps(T, B));
    const auto best = static_cast<int64_t>(std::ceil(std::sqrt(0.4 * static_cast<double>(T)) / static_cast<double>(block)));
    steps = std::clamp<int64_t>(best * block, 1, std::max<int64_t>(T, 1));
    count = std::max<int64_t>(1, (T + steps - 1) / steps);
  }

  bool on_cpu() const { return problem.device == RNNK_CPU; }
  // Of segment i of the walk: the first is the short one.
  int64_t begin(int64_t i) const { return i == 0 ? 0 : T - (count - i) * steps; }
  int64_t length(int64_t i) const { return begin(i + 1) - begin(i); }

  // Of the states behind h, which stand side by side.
  int64_t cell_units() const { return (cell_info(problem.cell)->states - 1) * problem.hidden_size; }
  int64_t h_bytes() const { return line(B * problem.output_size * item_size(problem.dtype)); }
  int64_t dh_bytes() const { return line(B * problem.output_size * item_size(state_dtype)); }
  int64_t c_bytes() const { return line(B * cell_units() * item_size(state_dtype)); }
  int64_t y_bytes() const { return line(steps * B * problem.output_size * item_size(problem.dtype)); }
  int64_t lengths_bytes() const { return line((B + 1) * int64_t{sizeof(int64_t)}); }
  int64_t border_bytes() const { return h_bytes() + c_bytes(); }

  rnnk_tensor rows(char* data, int64_t units, int dtype) const { return {data, {units, 1, 0}, dtype}; }
  // The states before segment i >= 1.
  rnnk_tensor h(void* reserve, int64_t i) const {
    return rows(static_cast<char*>(reserve) + (i - 1) * border_bytes(), problem.output_size, problem.dtype);
  }
  rnnk_tensor c(void* reserve, int64_t i) const {
    if (!cell_units()) return {};
    return rows(static_cast<char*>(reserve) + (i - 1) * border_bytes() + h_bytes(), cell_units(), state_dtype);
  }

  // The caller's arguments, cut to segment i.
  rnnk_args cut(const rnnk_args& a, int64_t i, int64_t* lengths) const {
    rnnk_args s = a;
    const int64_t first = problem.reverse ? T - begin(i + 1) : begin(i);
    s.seq_len = length(i);
    s.first_step += first;
    if (s.mask) s.mask += first * B;
    if (s.reset) s.reset += first * B;
    for (rnnk_tensor* t : {&s.x, &s.y, &s.dy, &s.dx, &s.dh}) {
      if (t->data) t->data = at(*t, first * t->stride[0]);
    }
    if (a.lengths) s.lengths = lengths;
    if (a.lengths && on_cpu()) {
      std::memcpy(lengths, a.lengths, static_cast<size_t>(B) * sizeof *lengths);
      lengths[B] = first;
      s.flags |= kPiece;
    } else if (a.lengths) {
      device_piece_lengths(problem, a, first, s.seq_len, lengths);
    }
    if (i > 0) s.h_0 = h(a.reserve, i), s.c_0 = c(a.reserve, i);
    return s;
  }
};

// Of a CPU; a GPU's kernels have their own.
struct Sums {
  void* to;
  int64_t count;
  float* sum;  // of half types
};

// What backward needs beside the kernel's own workspace.
struct Scratch {
  char *reserve, *y, *dh[2], *dc[2], *forward, *backward;  // the last two: of the kernel
  int64_t* lengths;
  Sums sums[6];
  int64_t reserve_size, forward_size, backward_size, bytes;

  Scratch(const Segments& s, const rnnk_args& a) {
    const Problem& p = s.problem;
    const Sizes sizes = s.kernel.sizes(p, s.steps, s.B);
    const int64_t gates = cell_info(p.cell)->gates * p.hidden_size;
    reserve_size = sizes.reserve;
    forward_size = sizes.workspace_forward, backward_size = sizes.workspace_backward;
    Carver c(a.workspace);
    reserve = c.take(reserve_size);
    y = c.take(s.y_bytes());
    for (int i = 0; i < 2; ++i) dh[i] = c.take(s.dh_bytes()), dc[i] = c.take(s.c_bytes());
    lengths = c.take<int64_t>(s.B + 1);
    const Sums all[6] = {{a.dweight_ih, gates * p.input_size, nullptr},
                         {a.dweight_hh, gates * p.weight_hh_columns(), nullptr},
                         {a.dbias_ih, gates, nullptr},
                         {a.dbias_hh, gates, nullptr},
                         {a.dweight_hr, p.output_size * p.hidden_size, nullptr},
                         {a.dparams, param_rows(p) * p.hidden_size, nullptr}};
    for (int i = 0; i < 6; ++i) {
      sums[i] = s.on_cpu() ? all[i] : Sums{};
      if (s.on_cpu() && p.dtype != s.state_dtype) {
        float* const sum = c.take<float>(sums[i].count);
        if (sums[i].to) sums[i].sum = sum;
      }
    }
    if (s.on_cpu()) {
      forward_size = backward_size = std::max(forward_size, backward_size);
      forward = backward = c.take(backward_size);
    } else {  // its sums stay in the one while segments are run in the other
      forward = c.take(forward_size), backward = c.take(backward_size);
    }
    bytes = c.used();
  }
};

// All elements once, split over the team.
template <class Fn>
void for_elements(int64_t n, const Fn& fn) {
  struct Job {
    const Fn& fn;
    int64_t n;
  } const job{fn, n};
  team_run(
      n < (1 << 16) ? 1 : team_size(), 1,
      [](const void* p, int64_t, int task, int tasks) {
        const Job& j = *static_cast<const Job*>(p);
        j.fn(j.n * task / tasks, j.n * (task + 1) / tasks);
      },
      &job);
}

// Segments are calls of their own: there are no parts of them.
void whole_call(const rnnk_args& args) {
  if (args.flags & kPart) fail(RNNK_RUNTIME_ERROR, "a part of a call that recomputes");
}

}  // namespace

Sizes plan_sizes(const Problem& problem, const Kernel& kernel, int64_t seq_len, int64_t batch) {
  Sizes sizes = kernel.sizes(problem, seq_len, batch);
  if (!problem.recompute) return sizes;
  const Segments s(problem, kernel, seq_len, batch);
  rnnk_args none{};
  sizes.reserve = line((s.count - 1) * s.border_bytes());
  sizes.workspace_forward += s.lengths_bytes();
  sizes.workspace_backward = Scratch(s, none).bytes;
  return sizes;
}

void plan_forward(const Problem& problem, const Kernel& kernel, const rnnk_args& args) {
  if (!problem.recompute || !args.reserve) return kernel.forward(problem, args);
  whole_call(args);
  const Segments s(problem, kernel, args.seq_len, args.batch);
  Carver carver(args.workspace);
  auto* lengths = carver.take<int64_t>(s.B + 1);
  for (int64_t i = 0; i < s.count; ++i) {
    rnnk_args a = s.cut(args, i, lengths);
    a.reserve = nullptr, a.reserve_size = 0;
    a.workspace = carver.take(0);
    if (i + 1 < s.count) a.h_n = s.h(args.reserve, i + 1), a.c_n = s.c(args.reserve, i + 1);
    kernel.forward(problem, a);
  }
}

void plan_backward(const Problem& problem, const Kernel& kernel, const rnnk_args& args) {
  if (!problem.recompute) return kernel.backward(problem, args);
  whole_call(args);
  const Segments s(problem, kernel, args.seq_len, args.batch);
  const Scratch scratch(s, args);
  rnnk_args whole = args;
  whole.workspace = scratch.backward, whole.workspace_size = static_cast<size_t>(scratch.backward_size);
  if (s.on_cpu()) whole.flags |= kContinueSums;
  void** const targets[6] = {&whole.dweight_ih, &whole.dweight_hh, &whole.dbias_ih,
                             &whole.dbias_hh,   &whole.dweight_hr, &whole.dparams};
  for (int i = 0; i < 6; ++i) {
    const Sums& t = scratch.sums[i];
    if (t.sum) *targets[i] = t.sum;
    if (!t.to) continue;
    char* const to = static_cast<char*>(*targets[i]);
    const int64_t size = item_size(s.state_dtype);
    for_elements(t.count, [&](int64_t a, int64_t b) { std::memset(to + a * size, 0, static_cast<size_t>((b - a) * size)); });
  }
  const int64_t P = problem.output_size, C = s.cell_units();
  for (int64_t i = s.count - 1; i >= 0; --i) {
    rnnk_args a = s.cut(whole, i, scratch.lengths);
    // The caller's y is not ours to write; the segment's own has the same values.
    a.y = {scratch.y, {s.B * P, P, 1}, problem.dtype};
    a.reserve = scratch.reserve, a.reserve_size = static_cast<size_t>(scratch.reserve_size);
    rnnk_args forward = a;
    forward.flags &= kPiece | RNNK_TRAIN;
    forward.workspace = scratch.forward, forward.workspace_size = static_cast<size_t>(scratch.forward_size);
    forward.h_n = forward.c_n = {};
    kernel.forward(problem, forward);
    if (i + 1 < s.count) {
      a.dh_n = s.rows(scratch.dh[(i + 1) % 2], P, s.state_dtype);
      if (C) a.dc_n = s.rows(scratch.dc[(i + 1) % 2], C, s.state_dtype);
    }
    if (i > 0) {
      a.dh_0 = s.rows(scratch.dh[i % 2], P, s.state_dtype);
      if (C) a.dc_0 = s.rows(scratch.dc[i % 2], C, s.state_dtype);
    }
    if (!s.on_cpu() && i + 1 < s.count) a.flags |= kContinueSums;
    if (!s.on_cpu() && i > 0) a.flags |= kKeepSums;
    kernel.backward(problem, a);
  }
  for (const Sums& t : scratch.sums) {
    if (!t.sum) continue;
    auto* const to = static_cast<uint16_t*>(t.to);
    const bool bf16 = problem.dtype == RNNK_BFLOAT16;
    for_elements(t.count, [&](int64_t a, int64_t b) {
      if (bf16) {
        for (int64_t e = a; e < b; ++e) to[e] = float_to_bf16(t.sum[e]);
      } else {
        for (int64_t e = a; e < b; ++e) to[e] = float_to_half(t.sum[e]);
      }
    });
  }
}

}  // namespace rnnk
