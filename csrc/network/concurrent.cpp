#include "network/concurrent.h"

#include "core/device.h"
#include "core/team.h"
#include "network/schedule.h"
#include "network/segments.h"

namespace rnnk {
namespace {

using Run = void (*)(const KernelCall&);

void at_once(Run run, const KernelCall& one, const KernelCall& other) {
  if (!one.on_cpu()) {
    SideStreams sides(one.problem.device_index, one.call.cuda_stream, 1);
    KernelCall second = other;
    second.call.cuda_stream = sides[0];
    run(second);
    run(one);
    sides.join();
    return;
  }
  struct Job {
    Run run;
    const KernelCall* calls[2];
  } const job{run, {&one, &other}};
  team_run(
      2, 1,
      [](const void* p, int64_t, int task, int) {
        const Job& j = *static_cast<const Job*>(p);
        j.run(*j.calls[task]);
      },
      &job);
}

void in_turn(Run run, const KernelCall& one, const KernelCall& other) {
  run(one);
  run(other);
}

// Adds `more` to dx, as a kernel that adds does: each element of a step that is, once, in the type of computation.
template <class T>
void add(const LayerCall& a, const rnnk_tensor& more, int64_t columns) {
  struct Job {
    const LayerCall& a;
    const rnnk_tensor& more;
    int64_t columns;
  } const job{a, more, columns};
  const int64_t rows = a.seq_len * a.batch;
  team_run(
      rows * columns < costs::kSmallElementwise ? 1 : team_size(), 1,
      [](const void* p, int64_t, int task, int tasks) {
        const Job& j = *static_cast<const Job*>(p);
        const int64_t all = j.a.seq_len * j.a.batch;
        for (int64_t row = all * task / tasks; row < all * (task + 1) / tasks; ++row) {
          const int64_t t = row / j.a.batch, b = row % j.a.batch;
          if ((j.a.lengths && t >= j.a.lengths[b]) ||
              (j.a.mask.data && !j.a.mask.data[t * j.a.mask.step + b * j.a.mask.row]))
            continue;
          const Row to = row3(j.a.dx, t, b);
          const T* const from = static_cast<const T*>(j.more.data) + row * j.columns;
          for (int64_t i = 0; i < j.columns; ++i) {
            write<T>(to.data, to.dtype, i * to.stride, read<T>(to.data, to.dtype, i * to.stride) + from[i]);
          }
        }
      },
      &job);
}

}  // namespace

void forward_pair(const KernelCall& one, KernelCall other, const SecondWorkspace& second) {
  if (!second.data || !faster_at_once(one, other, false, 0)) return in_turn(forward_layer, one, other);
  other.call.workspace = second.data;
  at_once(forward_layer, one, other);
}

void backward_pair(const KernelCall& one, KernelCall other, const SecondWorkspace& second) {
  const Problem& p = other.problem;
  const bool adds = other.call.add_to_dx;
  const int64_t bytes = adds ? second_dx_bytes(one, other) : 0;
  if (!second.data || (adds ? bytes == 0 || bytes > second.more_bytes : !faster_at_once(one, other, true, 0))) {
    return in_turn(backward_layer, one, other);
  }
  other.call.workspace = second.data;
  if (!adds) return at_once(backward_layer, one, other);
  KernelCall apart = other;
  void* const room = static_cast<char*>(second.data) + second.kernel_bytes;
  apart.call.dx = dense_steps(room, other.call.batch, p.input_size, state_dtype(p));
  apart.call.add_to_dx = false;
  at_once(backward_layer, one, apart);
  if (!one.on_cpu()) return device_add(p, other.call, apart.call.dx);
  if (state_dtype(p) == RNNK_FLOAT64) add<double>(other.call, apart.call.dx, p.input_size);
  else add<float>(other.call, apart.call.dx, p.input_size);
}

}  // namespace rnnk
