#include "network/wavefront.h"

#include <algorithm>

#include "core/device.h"
#include "core/team.h"
#include "network/segments.h"

namespace rnnk {
namespace {

struct Blocks {
  const Network& n;
  const rnnk_args& args;
  const Extent& e;
  Wave wave;
  const Calls& calls;
  const ForwardSpace& space;

  int64_t count() const { return (e.seq_len + wave.steps - 1) / wave.steps; }
  // Between two layers; in a wave at once a layer writes one half while the one above reads the other.
  rnnk_tensor between(int64_t layer, int64_t block) const {
    rnnk_tensor t = space.between.of(layer);
    if (wave.at_once) t.data = at(t, block % 2 * wave.steps * t.stride[0]);
    return t;
  }
  void run(int64_t layer, int64_t block) const {
    if (block < 0 || block >= count()) return;
    const KernelCall whole = [&] {
      KernelCall k = calls.forward(layer, 0);
      k.call.x = args.x, k.call.y = args.y;
      return k;
    }();
    const bool last = block + 1 == count();
    const int64_t begin = block * wave.steps, end = std::min(begin + wave.steps, e.seq_len);
    const int64_t first = whole.problem.reverse ? e.seq_len - end : begin;
    KernelCall k{whole.problem, whole.kernel,
                 window_of(whole.problem, whole.call, first, end - begin, space.lengths + layer * e.batch)};
    if (layer > 0) k.call.x = between(layer - 1, block);
    if (layer + 1 < n.num_layers) k.call.y = between(layer, block);
    const States carried = states_at(space.states + layer * space.state_bytes, whole.problem, e.batch, false);
    if (block > 0) k.call.h_0 = carried.h, k.call.c_0 = carried.c;
    if (!last) k.call.h_n = carried.h, k.call.c_n = carried.c;
    k.call.workspace = space.kernel(wave.at_once ? layer : 0);
    forward_layer(k);
  }
};

}  // namespace

void forward_in_blocks(const Network& n, const rnnk_args& args, const Extent& e, Wave wave, const Calls& calls,
                       const ForwardSpace& space) {
  const Blocks blocks{n, args, e, wave, calls, space};
  if (wave.at_once) {
    team_run(
        static_cast<int>(n.num_layers), blocks.count() + n.num_layers - 1,
        [](const void* p, int64_t phase, int task, int) { static_cast<const Blocks*>(p)->run(task, phase - task); },
        &blocks);
    return;
  }
  for (int64_t block = 0; block < blocks.count(); ++block) {
    for (int64_t layer = 0; layer < n.num_layers; ++layer) blocks.run(layer, block);
  }
}

void wave_on_streams(const KernelCall* calls, int64_t count, int64_t block_steps, bool backward) {
  const int64_t T = calls[0].call.seq_len, blocks = (T + block_steps - 1) / block_steps;
  // Only so many streams: further layers follow when these are done.
  for (int64_t done = 0; done < count; done += kMostSides + 1) {
    const int64_t places = std::min<int64_t>(count - done, kMostSides + 1);
    void* const own = calls[0].call.cuda_stream;
    SideStreams sides(calls[0].problem.device_index, own, static_cast<int>(places) - 1);
    const auto stream = [&](int64_t place) { return place > 0 ? sides[static_cast<int>(place) - 1] : own; };
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t first = (backward ? blocks - 1 - i : i) * block_steps;  // of the walk, which BPTT goes backwards
      for (int64_t place = 0; place < places; ++place) {
        KernelCall k = calls[done + place];
        k.call.first = first, k.call.last = std::min(first + block_steps, T);
        k.call.cuda_stream = stream(place);
        if (place > 0) sides.order(stream(place - 1), stream(place));
        (backward ? backward_layer : forward_layer)(k);
      }
    }
    sides.join();
  }
}

}  // namespace rnnk
