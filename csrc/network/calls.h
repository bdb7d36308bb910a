// From the caller's arguments to the calls of kernels.
#pragma once
#include "network/spaces.h"

namespace rnnk {

// State `index` of [L*D, B, .], as [B, .].
inline rnnk_tensor state_rows(const rnnk_tensor& all, int64_t index) {
  if (!all.data) return {};
  return {at(all, index * all.stride[0]), {all.stride[1], all.stride[2], 0}, all.dtype, 0};
}
// The columns of one direction of [T, B, D*P].
inline rnnk_tensor direction_columns(const rnnk_tensor& all, int64_t direction, int64_t columns) {
  rnnk_tensor one = all;
  if (one.data) one.data = at(all, direction * columns * all.stride[2]);
  return one;
}

// The weights or gradients of `index` in an array of structs, perhaps of an older and shorter form.
rnnk_weights weights_at(const rnnk_weights* array, int64_t index, const char* name = "weights");

// All layers' weights, packed where kernels expect them: after a pack's header.
void pack_network(const Network&, const rnnk_weights* weights, Halves halves, void* to, void* cuda_stream);
// Whether kernels read a call's weights where they are, or expect a pack.
bool reads_unpacked(const Network&, const rnnk_args&, bool backward);

class Calls {
 public:
  Calls(const Network& n, const rnnk_args& a, const Extent& e, const RowSpace& rows);
  // The call of a layer in one direction: extents, rows, states, options and weights. x, y, reserve, workspace and gradients are
  // the walk's.
  KernelCall forward(int64_t layer, int64_t direction) const;
  KernelCall backward(int64_t layer, int64_t direction) const;
  // Dropout on the output of a layer, or its gradient; `from` and `to` may be the same.
  void drop(int64_t layer, const rnnk_tensor& from, const rnnk_tensor& to) const;

 private:
  void take_rows();
  KernelCall common(int64_t layer, int64_t direction) const;

  const Network& network_;
  const rnnk_args& args_;
  const Extent& extent_;
  const RowSpace& rows_;
  const int64_t* lengths_ = nullptr;  // contiguous
  Marks mask_, reset_, reverse_reset_;
};

}  // namespace rnnk
