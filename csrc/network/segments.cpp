#include "network/segments.h"

#include <algorithm>
#include <cstring>

#include "core/device.h"
#include "core/team.h"
#include "network/schedule.h"

namespace rnnk {
namespace {

// How T steps are cut, and where the states at the borders are.
struct Segments {
  const Problem& problem;
  const Kernel& kernel;
  int64_t T, B, steps, count;

  Segments(const Problem& p, const Kernel& k, int64_t seq_len, int64_t batch)
      : problem(p), kernel(k), T(seq_len), B(batch), steps(segment_steps(k, seq_len, batch)),
        count(std::max<int64_t>(1, (T + steps - 1) / steps)) {}

  bool on_cpu() const { return problem.device == RNNK_CPU; }
  // Segment i of the walk begins here; the first is the short one.
  int64_t begin(int64_t i) const { return i == 0 ? 0 : T - (count - i) * steps; }
  int64_t length(int64_t i) const { return begin(i + 1) - begin(i); }
  int64_t y_bytes() const { return line(steps * B * problem.output_size * item_size(problem.dtype)); }
  int64_t border_bytes() const { return states_bytes(problem, B, false); }
  // The states before segment i >= 1.
  States border(void* reserve, int64_t i) const {
    return states_at(static_cast<char*>(reserve) + (i - 1) * border_bytes(), problem, B, false);
  }

  LayerCall cut(const LayerCall& whole, int64_t i, int64_t* lengths) const {
    LayerCall s = window_of(problem, whole, problem.reverse ? T - begin(i + 1) : begin(i), length(i), lengths);
    if (i > 0) {
      const States before = border(whole.reserve, i);
      s.h_0 = before.h, s.c_0 = before.c;
    }
    return s;
  }
};

// CPU only. Kernels of a GPU keep their own sums.
struct Sums {
  void* to;
  int64_t count;
  float* sum;  // of half types
};

// What backward needs in addition to the kernel's own workspace.
struct Scratch {
  char *reserve, *y, *gradients[2], *forward, *backward;  // the last two: workspaces of the kernel
  int64_t* lengths;
  Sums sums[6];
  int64_t bytes;

  Scratch(const Segments& s, const LayerCall& a) {
    const Problem& p = s.problem;
    const auto own = [&](Space space) { return s.kernel.bytes(p, space, s.steps, s.B); };
    const int64_t gates = cell_info(p.cell)->gates * p.hidden_size;
    Carver c(a.workspace);
    reserve = c.take(own(Space::reserve));
    y = c.take(s.y_bytes());
    for (char*& each : gradients) each = c.take(states_bytes(p, s.B, true));
    lengths = c.take<int64_t>(s.B);
    const Sums all[6] = {{a.dweight_ih, gates * p.input_size, nullptr},
                         {a.dweight_hh, gates * p.weight_hh_columns(), nullptr},
                         {a.dbias_ih, gates, nullptr},
                         {a.dbias_hh, gates, nullptr},
                         {a.dweight_hr, p.output_size * p.hidden_size, nullptr},
                         {a.dparams, param_rows(p) * p.hidden_size, nullptr}};
    for (int i = 0; i < 6; ++i) {
      sums[i] = s.on_cpu() ? all[i] : Sums{};
      if (s.on_cpu() && p.dtype != state_dtype(p)) {
        float* const sum = c.take<float>(sums[i].count);
        if (sums[i].to) sums[i].sum = sum;
      }
    }
    if (s.on_cpu()) {
      forward = backward = c.take(std::max(own(Space::forward), own(Space::backward)));
    } else {  // sums stay in the one while the forward of a segment runs in the other
      forward = c.take(own(Space::forward)), backward = c.take(own(Space::backward));
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
      n < costs::kSmallElementwise ? 1 : team_size(), 1,
      [](const void* p, int64_t, int task, int tasks) {
        const Job& j = *static_cast<const Job*>(p);
        j.fn(j.n * task / tasks, j.n * (task + 1) / tasks);
      },
      &job);
}

}  // namespace

LayerCall window_of(const Problem& p, const LayerCall& whole, int64_t first, int64_t steps, int64_t* lengths) {
  LayerCall s = whole;
  s.seq_len = s.last = steps;
  s.first_step += first;
  s.steps_before += first;
  for (Marks* m : {&s.mask, &s.reset}) {
    if (m->data) m->data += first * m->step;
  }
  for (rnnk_tensor* t : {&s.x, &s.y, &s.dy, &s.dx, &s.dh}) {
    if (t->data) t->data = at(*t, first * t->stride[0]);
  }
  if (whole.sorted_lengths) {
    for (int64_t r = 0; r < s.batch; ++r) {
      lengths[r] = std::clamp<int64_t>(whole.sorted_lengths[r] - first, 0, steps);
    }
    s.sorted_lengths = lengths;
  } else if (whole.lengths) {
    device_window_lengths(p, whole, first, steps, lengths);
    s.lengths = lengths;
  }
  return s;
}

int64_t layer_bytes(const Problem& problem, const Kernel& kernel, Space space, int64_t seq_len, int64_t batch) {
  if (!problem.recompute || space == Space::packed) return kernel.bytes(problem, space, seq_len, batch);
  const Segments s(problem, kernel, seq_len, batch);
  if (space == Space::reserve) return line((s.count - 1) * s.border_bytes());
  if (space == Space::backward) return Scratch(s, {}).bytes;
  return line(batch * int64_t{sizeof(int64_t)}) + kernel.bytes(problem, space, seq_len, batch);
}

void forward_layer(const KernelCall& c) {
  if (!c.problem.recompute || !c.call.reserve) return c.kernel.forward(c.problem, c.call);
  const Segments s(c.problem, c.kernel, c.call.seq_len, c.call.batch);
  Carver carver(c.call.workspace);
  auto* lengths = carver.take<int64_t>(s.B);
  for (int64_t i = 0; i < s.count; ++i) {
    LayerCall a = s.cut(c.call, i, lengths);
    a.reserve = nullptr;
    a.workspace = carver.take(0);
    if (i + 1 < s.count) {
      const States after = s.border(c.call.reserve, i + 1);
      a.h_n = after.h, a.c_n = after.c;
    }
    c.kernel.forward(c.problem, a);
  }
}

void backward_layer(const KernelCall& c) {
  const Problem& problem = c.problem;
  if (!problem.recompute) return c.kernel.backward(problem, c.call);
  const Segments s(problem, c.kernel, c.call.seq_len, c.call.batch);
  const Scratch scratch(s, c.call);
  LayerCall whole = c.call;
  whole.workspace = scratch.backward;
  if (s.on_cpu()) whole.start_sums = whole.store_sums = false;
  void** const targets[6] = {&whole.dweight_ih, &whole.dweight_hh, &whole.dbias_ih,
                             &whole.dbias_hh,   &whole.dweight_hr, &whole.dparams};
  const int64_t size = item_size(state_dtype(problem));
  for (int i = 0; i < 6; ++i) {
    const Sums& t = scratch.sums[i];
    if (t.sum) *targets[i] = t.sum;
    if (!t.to) continue;
    char* const to = static_cast<char*>(*targets[i]);
    for_elements(t.count, [&](int64_t a, int64_t b) { std::memset(to + a * size, 0, static_cast<size_t>((b - a) * size)); });
  }
  for (int64_t i = s.count - 1; i >= 0; --i) {
    LayerCall a = s.cut(whole, i, scratch.lengths);
    // The caller's y is not ours to write; the segment's own has the same values.
    a.y = dense_steps(scratch.y, s.B, problem.output_size, problem.dtype);
    a.reserve = scratch.reserve;
    LayerCall forward = a;
    forward.workspace = scratch.forward;
    forward.h_n = forward.c_n = {};
    c.kernel.forward(problem, forward);
    if (i + 1 < s.count) {
      const States after = states_at(scratch.gradients[(i + 1) % 2], problem, s.B, true);
      a.dh_n = after.h, a.dc_n = after.c;
    }
    if (i > 0) {
      const States before = states_at(scratch.gradients[i % 2], problem, s.B, true);
      a.dh_0 = before.h, a.dc_0 = before.c;
    }
    if (!s.on_cpu()) a.start_sums = i + 1 == s.count, a.store_sums = i == 0;
    c.kernel.backward(problem, a);
  }
  for (const Sums& t : scratch.sums) {
    if (!t.sum) continue;
    for_elements(t.count, [&](int64_t a, int64_t b) {
      for (int64_t e = a; e < b; ++e) write<float>(t.to, problem.dtype, e, t.sum[e]);
    });
  }
}

}  // namespace rnnk
