#include "network/spaces.h"

#include <algorithm>

#include "network/segments.h"

namespace rnnk {
namespace {

// The larger of what the first layer and the others need.
int64_t largest(const Network& n, const Extent& e, Space space, int64_t steps, int64_t lowest) {
  int64_t most = 0;
  for (int64_t l = lowest; l < std::min<int64_t>(n.num_layers, std::max<int64_t>(2, lowest + 1)); ++l) {
    for (int64_t d = 0; d < n.directions; ++d) {
      most = std::max(most, layer_bytes(n.problem(l, d, e.masked), *n.layer(l, d).kernel, space, steps, e.batch));
    }
  }
  return line(most);
}

// A wave whose blocks pass states on by themselves; a GPU's kernels keep theirs.
bool in_windows(const Network& n, const Extent& e, Wave w) { return n.on_cpu() && w.steps < e.seq_len; }

// Buffers between the layers of a forward: with a reserve, outputs are kept there.
int64_t forward_buffers(const Network& n, const Extent& e, Wave w) {
  if (e.keeps || n.num_layers == 1) return 0;
  if (w.at_once) return n.num_layers - 1;
  return std::min<int64_t>(n.num_layers - 1, 2);
}
// Steps of such a buffer: in a wave at once a layer writes one block while the one above reads the one before.
int64_t buffer_steps(const Network& n, const Extent& e, Wave w) {
  return in_windows(n, e, w) ? (w.at_once ? 2 : 1) * w.steps : e.seq_len;
}

int64_t backward_buffers(const Network& n, int64_t lowest, Wave w) {
  const int64_t between = std::max<int64_t>(n.num_layers - 1 - lowest, 0);
  return w.at_once ? between : std::min<int64_t>(between, 2);
}

}  // namespace

ReserveSpace::ReserveSpace(const Network& n, const Extent& e, void* base)
    : network_(n), batch_(e.batch), base_(static_cast<char*>(base)) {
  if (!e.keeps) return;
  for (int l = 0; l < std::min<int64_t>(n.num_layers, 2); ++l) {
    for (int d = 0; d < n.directions; ++d) {
      const Problem& p = n.problem(l, d, e.masked);
      own_[l][d] = line(layer_bytes(p, *n.layer(l, d).kernel, Space::reserve, e.seq_len, e.batch));
    }
  }
  output_bytes_ = line(e.seq_len * e.batch * n.directions * n.outputs() * item_size(n.first().dtype));
  outputs_ = own_at(n.num_layers, 0);
  inputs_ = e.drops ? outputs_ + (n.num_layers - 1) * output_bytes_ : outputs_;
  bytes_ = inputs_ + (n.num_layers - 1) * output_bytes_;
}

int64_t ReserveSpace::own_at(int64_t layer, int64_t direction) const {
  int64_t at = 0, whole[2] = {0, 0};
  for (int64_t d = 0; d < network_.directions; ++d) {
    whole[0] += own_[0][d];
    if (network_.num_layers > 1) whole[1] += own_[1][d];
  }
  if (layer > 0) at = whole[0] + (layer - 1) * whole[1];
  if (direction > 0) at += own_[layer > 0][0];
  return at;
}

rnnk_tensor ReserveSpace::steps(int64_t at) const {
  return dense_steps(base_ + at, batch_, network_.directions * network_.outputs(), network_.first().dtype);
}

BetweenSpace::BetweenSpace(Carver& c, const Network& n, int64_t steps, int64_t batch, int64_t buffers)
    : bytes_(line(steps * batch * n.directions * n.outputs() * item_size(n.first().dtype))), count_(buffers), batch_(batch),
      width_(n.directions * n.outputs()), dtype_(n.first().dtype) {
  base_ = c.take(buffers * bytes_);
}

rnnk_tensor BetweenSpace::of(int64_t layer) const {
  return dense_steps(base_ + layer % count_ * bytes_, batch_, width_, dtype_);
}

ForwardSpace::ForwardSpace(const Network& n, const Extent& e, Wave w, void* base) : ForwardSpace(Carver(base), n, e, w) {}

ForwardSpace::ForwardSpace(Carver c, const Network& n, const Extent& e, Wave w)
    : rows(c, n, e), between(c, n, buffer_steps(n, e, w), e.batch, forward_buffers(n, e, w)) {
  const bool windows = in_windows(n, e, w);
  state_bytes = states_bytes(n.first(), e.batch, false);
  states = c.take(windows ? n.num_layers * state_bytes : 0);
  lengths = c.take<int64_t>(windows ? n.num_layers * e.batch : 0);
  kernel_bytes = largest(n, e, Space::forward, windows ? w.steps : e.seq_len, 0);
  kernels = c.take((w.at_once ? n.num_layers : 1) * kernel_bytes);
  bytes = c.used();
}

BackwardSpace::BackwardSpace(const Network& n, const Extent& e, int64_t lowest, Wave w, void* base)
    : BackwardSpace(Carver(base), n, e, lowest, w) {}

BackwardSpace::BackwardSpace(Carver c, const Network& n, const Extent& e, int64_t lowest, Wave w)
    : rows(c, n, e), between(c, n, e.seq_len, e.batch, backward_buffers(n, lowest, w)) {
  kernel_bytes = largest(n, e, Space::backward, e.seq_len, lowest);
  kernels = c.take((w.at_once ? n.num_layers - lowest : 1) * kernel_bytes);
  bytes = c.used();
}

int64_t forward_bytes(const Network& n, const Extent& e, int64_t, Wave w) { return ForwardSpace(n, e, w, nullptr).bytes; }
int64_t backward_bytes(const Network& n, const Extent& e, int64_t lowest, Wave w) {
  return BackwardSpace(n, e, lowest, w, nullptr).bytes;
}

}  // namespace rnnk
