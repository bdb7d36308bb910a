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

Parameters parameters_of(const rnnk_weights& w, void* cuda_stream) {
  return {w.weight_ih.data, w.weight_hh.data, w.bias_ih.data, w.bias_hh.data, w.weight_hr.data, w.params.data, cuda_stream};
}

void pack_network(const Network& n, const rnnk_weights* weights, Halves halves, void* to, void* cuda_stream) {
  for (int64_t index = 0; index < n.count(); ++index) {
    const int64_t l = index / n.directions, d = index % n.directions;
    const Layer& layer = n.layer(l, d);
    const Parameters from = parameters_of(weights_at(weights, index), cuda_stream);
    layer.kernel->pack(layer.plain, from, halves, static_cast<char*>(to) + n.packed_at(l, d));
  }
}

bool reads_unpacked(const Network& n, const rnnk_args& a, bool backward) {
  const Problem& p = n.first();
  if (!n.on_cpu() || a.seq_len > 1 || p.heads > 1 || p.form != WeightForm::own) return false;
  if (!backward) return a.batch <= costs::kMostRowsUnpacked;
  return a.batch <= costs::kMostRowsUnpackedBackward && (p.dtype == RNNK_FLOAT32 || p.dtype == RNNK_FLOAT64);
}

namespace {

Marks marks_of(const rnnk_tensor& t) { return {static_cast<const uint8_t*>(t.data), t.stride[0], t.stride[1]}; }

}  // namespace

Calls::Calls(const Network& n, const rnnk_args& a, const Extent& e, const RowSpace& rows)
    : network_(n), args_(a), extent_(e), rows_(rows), mask_(marks_of(a.mask)), reset_(marks_of(a.reset)) {
  if (a.seq_len > 0 && a.batch > 0) take_rows();
}

// Lengths and marks as kernels read them.
void Calls::take_rows() {
  const rnnk_args& a = args_;
  const int device = network_.first().device_index;
  const bool cpu = network_.on_cpu();
  if (a.lengths.data) {
    const bool dense = a.lengths.dtype == RNNK_INT64 && (a.batch == 1 || a.lengths.stride[0] == 1);
    lengths_ = dense ? static_cast<const int64_t*>(a.lengths.data) : rows_.lengths;
    if (!dense && !cpu) device_lengths(device, a, rows_.lengths);
    for (int64_t b = 0; !dense && cpu && b < a.batch; ++b) rows_.lengths[b] = length_at(a.lengths, b);
    if (cpu) sort_rows(lengths_, a.batch, rows_.order, rows_.sorted_lengths);
  }
  if (cpu) return;
  const auto copy = [&](const Marks& from, int64_t shift, uint8_t* to) {
    device_marks(device, {from, lengths_, a.seq_len, a.batch, shift}, to, a.cuda_stream);
    return Marks{to, a.batch, 1};
  };
  if (reset_.data && network_.any_reverse()) reverse_reset_ = copy(reset_, 1, rows_.reverse_resets);
  const auto dense = [&](const Marks& m) { return m.step == a.batch && (m.row == 1 || a.batch == 1); };
  if (mask_.data && !dense(mask_)) mask_ = copy(mask_, 0, rows_.mask);
  if (reset_.data && !dense(reset_)) reset_ = copy(reset_, 0, rows_.reset);
}

KernelCall Calls::common(int64_t layer, int64_t direction) const {
  const rnnk_args& a = args_;
  const Layer& l = network_.layer(layer, direction);
  KernelCall k{network_.problem(layer, direction, extent_.masked), *l.kernel, {}};
  const int64_t index = layer * network_.directions + direction;
  LayerCall& c = k.call;
  c.seq_len = c.whole_steps = c.last = a.seq_len, c.batch = a.batch;
  c.lengths = lengths_;
  if (lengths_ && network_.on_cpu()) {
    c.order = rows_.order, c.sorted_lengths = c.whole_lengths = rows_.sorted_lengths;
  }
  c.packed = static_cast<char*>(a.packed) + network_.packed_at(layer, direction);
  c.unpacked = a.weights != nullptr;
  if (c.unpacked) c.weights = parameters_of(weights_at(a.weights, index), a.cuda_stream);
  c.h_0 = state_rows(a.h_0, index), c.c_0 = state_rows(a.c_0, index);
  c.mask = mask_;
  c.reset = !network_.on_cpu() && k.problem.reverse ? reverse_reset_ : reset_;
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
