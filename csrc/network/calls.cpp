#include "network/calls.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/device.h"
#include "core/dropout.h"
#include "core/team.h"

namespace rnnk {

rnnk_weights weights_at(const rnnk_weights* array, int64_t index, const char* name) {
  const size_t size = array->struct_size, least = offsetof(rnnk_weights, weight_hr);
  if (size < least) fail(RNNK_INVALID_VALUE, "%s.struct_size: expected at least %zu, got %zu", name, least, size);
  rnnk_weights one{};
  std::memcpy(&one, reinterpret_cast<const char*>(array) + static_cast<size_t>(index) * size, std::min(size, sizeof one));
  return one;
}

Calls::Calls(const Network& n, const rnnk_args& a, const Extent& e, const RowSpace& rows)
    : network_(n), args_(a), extent_(e), rows_(rows) {
  if (!n.on_cpu()) {
    if (a.reset && n.any_reverse()) {
      device_reverse_resets(n.first().device_index, a, rows.reverse_resets);
    }
  } else if (a.lengths) {
    sort_rows(a.lengths, a.batch, rows.order, rows.sorted_lengths);
  }
}

KernelCall Calls::common(int64_t layer, int64_t direction) const {
  const rnnk_args& a = args_;
  const Layer& l = network_.layer(layer, direction);
  KernelCall k{network_.problem(layer, direction, extent_.masked), *l.kernel, {}};
  const int64_t index = layer * network_.directions + direction;
  LayerCall& c = k.call;
  c.seq_len = c.whole_steps = c.last = a.seq_len, c.batch = a.batch;
  c.lengths = a.lengths;
  if (a.lengths && network_.on_cpu()) {
    c.order = rows_.order, c.sorted_lengths = c.whole_lengths = rows_.sorted_lengths;
  }
  c.packed = static_cast<const char*>(a.packed) + network_.packed_at(layer, direction);
  c.h_0 = state_rows(a.h_0, index), c.c_0 = state_rows(a.c_0, index);
  c.mask = a.mask;
  c.reset = !network_.on_cpu() && a.reset && k.problem.reverse ? rows_.reverse_resets : a.reset;
  c.train = a.flags & RNNK_CALL_TRAIN;
  c.seed = a.seed, c.call = a.call, c.stream = a.stream + static_cast<uint32_t>(index), c.first_step = a.first_step;
  c.cuda_stream = a.cuda_stream;
  return k;
}

KernelCall Calls::forward(int64_t layer, int64_t direction) const {
  KernelCall k = common(layer, direction);
  const int64_t index = layer * network_.directions + direction;
  k.call.h_n = state_rows(args_.h_n, index), k.call.c_n = state_rows(args_.c_n, index);
  return k;
}

KernelCall Calls::backward(int64_t layer, int64_t direction) const {
  const rnnk_args& a = args_;
  KernelCall k = common(layer, direction);
  const int64_t index = layer * network_.directions + direction;
  LayerCall& c = k.call;
  c.dh_n = state_rows(a.dh_n, index), c.dc_n = state_rows(a.dc_n, index);
  c.dh_0 = state_rows(a.dh_0, index), c.dc_0 = state_rows(a.dc_0, index);
  if (a.dh) c.dh = direction_columns(a.dh[layer], direction, network_.outputs());
  c.clip_dh = a.clip_dh;
  if (!a.dweights) return k;
  const rnnk_weights w = weights_at(a.dweights, index);
  c.dweight_ih = w.weight_ih.data, c.dweight_hh = w.weight_hh.data, c.dbias_ih = w.bias_ih.data, c.dbias_hh = w.bias_hh.data;
  c.dweight_hr = w.weight_hr.data, c.dparams = w.params.data;
  return k;
}

void Calls::drop(int64_t layer, const rnnk_tensor& from, const rnnk_tensor& to) const {
  if (args_.seq_len == 0 || args_.batch == 0) return;
  rnnk_dropout_args d{};
  d.p = network_.dropout, d.seed = args_.seed, d.call = args_.call, d.first_step = args_.first_step;
  d.seq_len = args_.seq_len, d.batch = args_.batch, d.hidden_size = network_.outputs(), d.lengths = args_.lengths;
  d.device = network_.first().device, d.device_index = network_.first().device_index, d.cuda_stream = args_.cuda_stream;
  for (int64_t direction = 0; direction < network_.directions; ++direction) {
    d.stream = args_.stream + static_cast<uint32_t>(layer * network_.directions + direction);
    d.in = direction_columns(from, direction, network_.outputs());
    d.out = direction_columns(to, direction, network_.outputs());
    if (network_.on_cpu()) dropout(d);
    else device_dropout(d);
  }
}

}  // namespace rnnk
