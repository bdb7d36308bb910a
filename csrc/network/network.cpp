// A network's calls: layers from the first up, or from the last down, both directions of each, dropout between them.
#include "network/network.h"

#include <algorithm>
#include <vector>

#include "network/check.h"
#include "network/concurrent.h"
#include "network/pack_header.h"
#include "network/segments.h"
#include "network/wavefront.h"

namespace rnnk {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kReserveParts = 16;  // a kernel's reserve has no more arrays than this, each rounded up to a line

// What a layer read, or is to read, in training.
rnnk_tensor kept_input(const ReserveSpace& reserve, const Extent& e, const rnnk_tensor& x, int64_t layer) {
  if (layer == 0) return x;
  return e.drops ? reserve.input_above(layer - 1) : reserve.output(layer - 1);
}

// One direction reads and writes its own columns of gx, and all of any other x.
rnnk_tensor of_direction(const Problem& p, const rnnk_tensor& x, int64_t direction) {
  return p.given_gx ? direction_columns(x, direction, cell_info(p.cell)->gates * p.hidden_size) : x;
}

bool wants_parameters(const LayerCall& c) {
  return c.dweight_ih || c.dweight_hh || c.dbias_ih || c.dbias_hh || c.dweight_hr || c.dparams;
}

// The lowest layer that BPTT must visit: num_layers where nothing is wanted.
int64_t lowest_layer(const Network& n, const rnnk_args& a) {
  if (a.dx.data || a.dh_0.data || a.dc_0.data || a.dh) return 0;
  for (int64_t index = 0; a.dweights && index < n.count(); ++index) {
    const rnnk_weights w = weights_at(a.dweights, index);
    if (w.weight_ih.data || w.weight_hh.data || w.bias_ih.data || w.bias_hh.data || w.weight_hr.data || w.params.data) {
      return index / n.directions;
    }
  }
  return n.num_layers;
}

// What the caller's workspace has behind the least that a call of two directions needs.
template <class Space>
SecondWorkspace second_workspace(const rnnk_args& a, const Space& space) {
  const int64_t left = static_cast<int64_t>(a.workspace_size) - space.bytes;
  if (left < space.kernel_bytes) return {nullptr, 0, 0};
  return {static_cast<char*>(a.workspace) + space.bytes, space.kernel_bytes, left - space.kernel_bytes};
}

// The kernel calls of one layer of a forward, but for what its walk gives it.
struct ForwardWalk {
  const Network& n;
  const rnnk_args& a;
  const Extent& e;
  const Calls& calls;
  const ReserveSpace& reserve;
  const ForwardSpace& space;

  rnnk_tensor output(int64_t layer) const {
    if (layer + 1 == n.num_layers) return a.y;
    return e.keeps ? reserve.output(layer) : space.between.of(layer);
  }
  rnnk_tensor input(int64_t layer) const {
    if (layer == 0) return a.x;
    return e.keeps ? kept_input(reserve, e, a.x, layer) : space.between.of(layer - 1);
  }
  KernelCall call(int64_t layer, int64_t direction, void* workspace) const {
    KernelCall k = calls.forward(layer, direction);
    k.call.x = of_direction(k.problem, input(layer), direction);
    k.call.y = direction_columns(output(layer), direction, n.outputs());
    if (e.keeps) k.call.reserve = reserve.own(layer, direction);
    k.call.workspace = workspace;
    return k;
  }
  void in_turn() const {
    for (int64_t layer = 0; layer < n.num_layers; ++layer) {
      const KernelCall one = call(layer, 0, space.kernel(0));
      if (n.directions == 2) forward_pair(one, call(layer, 1, space.kernel(0)), second_workspace(a, space));
      else forward_layer(one);
      if (!e.drops || layer + 1 == n.num_layers) continue;
      // BPTT of this layer needs its output before dropout, the layer above the one after it: only then are both kept.
      calls.drop(layer, output(layer), input(layer + 1));
    }
  }
  void on_streams(int64_t block_steps) const {
    std::vector<KernelCall> all;
    for (int64_t layer = 0; layer < n.num_layers; ++layer) all.push_back(call(layer, 0, space.kernel(layer)));
    wave_on_streams(all.data(), n.num_layers, block_steps, false);
  }
};

struct BackwardWalk {
  const Network& n;
  const rnnk_args& a;
  const Extent& e;
  const Calls& calls;
  const ReserveSpace& reserve;
  const BackwardSpace& space;
  int64_t lowest;

  rnnk_tensor dx(int64_t layer) const {
    if (layer == 0) return a.dx;
    return layer > lowest ? space.between.of(layer - 1) : rnnk_tensor{};
  }
  KernelCall call(int64_t layer, int64_t direction, void* workspace) const {
    const bool top = layer + 1 == n.num_layers;
    KernelCall k = calls.backward(layer, direction);
    k.call.x = of_direction(k.problem, kept_input(reserve, e, a.x, layer), direction);
    k.call.y = direction_columns(top ? a.y : reserve.output(layer), direction, n.outputs());
    k.call.dy = direction_columns(top ? a.dy : space.between.of(layer), direction, n.outputs());
    k.call.dx = of_direction(k.problem, dx(layer), direction);
    k.call.reserve = reserve.own(layer, direction);
    k.call.workspace = workspace;
    return k;
  }
  static bool wanted(const LayerCall& c) {
    return c.dx.data || c.dh_0.data || c.dc_0.data || c.dh.data || wants_parameters(c);
  }
  void in_turn() const {
    for (int64_t layer = n.num_layers - 1; layer >= lowest; --layer) {
      KernelCall one = call(layer, 0, space.kernel(0));
      if (n.directions == 1) {
        if (wanted(one.call)) backward_layer(one);
      } else {
        KernelCall other = call(layer, 1, space.kernel(0));
        other.call.add_to_dx = one.call.dx.data && !one.problem.given_gx;
        const bool first = wanted(one.call), second = wanted(other.call);
        if (first && second) backward_pair(one, other, second_workspace(a, space));
        else if (first) backward_layer(one);
        else if (second) backward_layer(other);
      }
      if (layer > lowest && e.drops) calls.drop(layer - 1, dx(layer), dx(layer));
    }
  }
  void on_streams(int64_t block_steps) const {
    std::vector<KernelCall> all;
    for (int64_t layer = n.num_layers - 1; layer >= lowest; --layer) {
      all.push_back(call(layer, 0, space.kernel(layer - lowest)));
    }
    wave_on_streams(all.data(), n.num_layers - lowest, block_steps, true);
  }
};

// Room for a second dx, of any layer.
int64_t room_for_second_dx(const Network& n, const Extent& e) {
  int64_t most = 0;
  for (int64_t l = 0; n.directions == 2 && l < std::min<int64_t>(n.num_layers, 2); ++l) {
    KernelCall pair[2] = {{n.problem(l, 0, e.masked), *n.layer(l, 0).kernel, {}},
                          {n.problem(l, 1, e.masked), *n.layer(l, 1).kernel, {}}};
    for (KernelCall& k : pair) k.call.seq_len = e.seq_len, k.call.batch = e.batch;
    most = std::max(most, second_dx_bytes(pair[0], pair[1]));
  }
  return most;
}

}  // namespace

Network::Network(const rnnk_problem& p, const char* kernel)
    : num_layers(p.num_layers), directions(p.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1), dropout(p.dropout) {
  for (int l = 0; l < std::min<int64_t>(num_layers, 2); ++l) {
    const Kernel& chosen = choose_kernel(choosing_problem(p, l), p, kernel);
    for (int d = 0; d < directions; ++d) {
      Layer& layer = layers[l][d];
      const Problem problem = layer_problem(p, l, d);
      layer.plain = layer.masked = problem;
      layer.masked.masked = true;
      choose_variant(layer.masked);
      layer.kernel = &chosen;
      layer.packed_bytes = line(chosen.bytes(problem, Space::packed, 0, 0));
    }
  }
  const double bytes = static_cast<double>(layers[0][0].packed_bytes) +
                       static_cast<double>(layers[1][0].packed_bytes) * static_cast<double>(num_layers - 1);
  if (bytes * static_cast<double>(directions) > 0x1p60) {
    fail(RNNK_INVALID_VALUE, "num_layers, input_size, hidden_size: expected at most 2^60 bytes of weights, got %g",
         bytes * static_cast<double>(directions));
  }
  layout = pack_layout(*this);
  packed_bytes = packed_at(num_layers, 0);
}

int64_t Network::packed_at(int64_t l, int64_t direction) const {
  const int64_t first = layers[0][0].packed_bytes, other = layers[1][0].packed_bytes;
  if (l == 0) return direction * first;
  return directions * (first + (l - 1) * other) + direction * other;
}

NetworkSizes network_sizes(const Network& n, int64_t seq_len, int64_t batch) {
  NetworkSizes most{};
  // A call may be with or without masks, random ones included, and none says beforehand.
  const bool may_drop = n.num_layers > 1 && n.dropout > 0;
  for (int which = 0; which < (may_drop ? 4 : 2); ++which) {
    Extent e{seq_len, batch, which % 2 == 1, true, which >= 2};
    most.reserve = std::max(most.reserve, ReserveSpace(n, e, nullptr).bytes());
    const auto forward = [&](bool keeps, int64_t workspace) {
      e.keeps = keeps;
      const ForwardSpace space(n, e, forward_wave(n, e, workspace), nullptr);
      return space.bytes + (workspace && n.directions == 2 ? space.kernel_bytes : 0);
    };
    most.forward_least = std::max({most.forward_least, forward(false, 0), forward(true, 0)});
    most.forward = std::max({most.forward, most.forward_least, forward(false, -1), forward(true, -1)});
    e.keeps = true;
    const BackwardSpace in_turn(n, e, 0, backward_wave(n, e, 0, 0), nullptr);
    const int64_t second = n.directions == 2 ? in_turn.kernel_bytes + room_for_second_dx(n, e) : 0;
    most.backward_least = std::max(most.backward_least, in_turn.bytes);
    most.backward = std::max({most.backward, in_turn.bytes + second, backward_bytes(n, e, 0, backward_wave(n, e, 0, -1))});
  }
  return most;
}

rnnk_reserve_bound reserve_bound(const Network& n) {
  rnnk_reserve_bound bound{};
  const int64_t item = item_size(n.first().dtype), between = n.directions * n.outputs() * item, lower = n.num_layers - 1;
  const int64_t states = line(n.outputs() * item) + line(n.cell_units() * item_size(state_dtype(n.first())));
  for (int64_t l = 0; l < n.num_layers; ++l) {
    for (int64_t d = 0; d < n.directions; ++d) {
      if (n.first().recompute) {  // segments have at least sqrt(0.4 T) steps, so there are fewer borders than s(T)
        bound.border_row += states;
        bound.border += 2 * kLine;
        continue;
      }
      // A kernel's reserve is an array of numbers for each row of each step, each array rounded up to a line.
      int64_t own = 0;
      for (const bool masked : {false, true}) {
        own = std::max(own, n.layer(l, d).kernel->bytes(n.problem(l, d, masked), Space::reserve, 1, kLine) / kLine);
      }
      bound.per_row += own;
    }
  }
  bound.per_row_dropped = bound.per_row + 2 * lower * between;
  bound.per_row += lower * between;
  bound.constant = kLine * (n.count() * kReserveParts + 2 * lower);
  return bound;
}

void network_forward(const Network& n, const rnnk_args& a) {
  const Extent e = extent_of(n, a, a.reserve != nullptr);
  const Wave wave = forward_wave(n, e, static_cast<int64_t>(a.workspace_size));
  const ForwardSpace space(n, e, wave, a.workspace);
  const ReserveSpace reserve(n, e, a.reserve);
  check_room("workspace", a.workspace, a.workspace_size, space.bytes);
  if (e.keeps) check_room("reserve", a.reserve, a.reserve_size, reserve.bytes());
  const Calls calls(n, a, e, space.rows);
  const ForwardWalk walk{n, a, e, calls, reserve, space};
  if (wave.steps == e.seq_len) walk.in_turn();
  else if (n.on_cpu()) forward_in_blocks(n, a, e, wave, calls, space);
  else walk.on_streams(wave.steps);
}

void network_backward(const Network& n, const rnnk_args& a) {
  const int64_t lowest = lowest_layer(n, a);
  if (lowest == n.num_layers) return;
  const Extent e = extent_of(n, a, true);
  const int64_t size = static_cast<int64_t>(a.workspace_size);
  const Wave wave = backward_wave(n, e, lowest, size);
  const BackwardSpace space(n, e, lowest, wave, a.workspace);
  const ReserveSpace reserve(n, e, a.reserve);
  check_room("workspace", a.workspace, a.workspace_size, space.bytes);
  check_room("reserve", a.reserve, a.reserve_size, reserve.bytes());
  const Calls calls(n, a, e, space.rows);
  const BackwardWalk walk{n, a, e, calls, reserve, space, lowest};
  if (wave.steps == e.seq_len) walk.in_turn();
  else walk.on_streams(wave.steps);
}

}  // namespace rnnk
