#include "network/check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/device.h"
#include "core/storage.h"
#include "network/calls.h"
#include "network/pack_header.h"

namespace rnnk {
namespace {

using ll = long long;

void check_aligned(const void* p, const char* name) {
  if (reinterpret_cast<uintptr_t>(p) % 64)
    fail(RNNK_INVALID_VALUE, "%s: expected a 64-byte aligned pointer, got %p", name, p);
}

// state: c and the gradients of states, which half-type problems may hold in float32 too.
void check_tensor(const Problem& problem, const rnnk_tensor& t, const char* name, bool required, bool state) {
  if (!t.data) {
    if (required) fail(RNNK_INVALID_VALUE, "%s: expected a tensor, got NULL", name);
    return;
  }
  if (t.reserved) fail(RNNK_INVALID_VALUE, "%s.reserved: expected 0, got %d", name, t.reserved);
  const bool half = problem.dtype == RNNK_BFLOAT16 || problem.dtype == RNNK_FLOAT16;
  if (t.dtype == problem.dtype || (state && half && t.dtype == RNNK_FLOAT32)) return;
  fail(RNNK_INVALID_TYPE, "%s: expected dtype %s%s, got %s", name, dtype_name(problem.dtype),
       state && half ? " or float32" : "", dtype_name(t.dtype));
}

}  // namespace

void check_extent(const Network& n, int64_t seq_len, int64_t batch) {
  for (int l = 0; l < std::min<int64_t>(n.num_layers, 2); ++l) check_extent(n.layers[l][0].plain, n.count(), seq_len, batch);
}

void check_extent(const Problem& problem, int64_t layers, int64_t seq_len, int64_t batch) {
  if (seq_len < 0 || seq_len >= int64_t{1} << 40) {
    fail(RNNK_INVALID_VALUE, "seq_len: expected 0 to 2^40 - 1, got %lld", ll{seq_len});
  }
  if (batch < 0 || batch >= int64_t{1} << 31) fail(RNNK_INVALID_VALUE, "batch: expected 0 to 2^31 - 1, got %lld", ll{batch});
  // Kernels keep up to some 20 numbers of 8 bytes per step, row and unit of each layer, with units padded by up to 64: within 2^50
  // of these (four million GB) every size stays below 2^63.
  int64_t total = 0;
  const int64_t width = std::max({problem.input_size, problem.hidden_size, problem.output_size}) + 64;
  if (__builtin_mul_overflow(seq_len, batch, &total) || __builtin_mul_overflow(total, width, &total) ||
      __builtin_mul_overflow(total, layers, &total) || total > int64_t{1} << 50) {
    fail(RNNK_INVALID_VALUE, "seq_len, batch: expected at most 2^50 numbers in all layers, got %lld * %lld * %lld * %lld",
         ll{seq_len}, ll{batch}, ll{width - 64}, ll{layers});
  }
}

void check_lengths(const rnnk_tensor& lengths, int64_t seq_len, int64_t batch, bool values) {
  if (!lengths.data) return;
  if (lengths.reserved) fail(RNNK_INVALID_VALUE, "lengths.reserved: expected 0, got %d", lengths.reserved);
  if (lengths.dtype != RNNK_INT32 && lengths.dtype != RNNK_INT64) {
    fail(RNNK_INVALID_TYPE, "lengths: expected dtype int32 or int64, got %s", dtype_name(lengths.dtype));
  }
  for (int64_t i = 0; values && i < batch; ++i) {
    const int64_t length = length_at(lengths, i);
    if (length < 0 || length > seq_len) {
      fail(RNNK_INVALID_VALUE, "lengths[%lld]: expected 0 to %lld (seq_len), got %lld", ll{i}, ll{seq_len}, ll{length});
    }
  }
}

void check_room(const char* name, const void* data, size_t size, int64_t needed) {
  if (needed > 0 && !data) fail(RNNK_INVALID_VALUE, "%s: expected %lld bytes, got NULL", name, ll{needed});
  check_aligned(data, name);
  if (size < static_cast<size_t>(needed)) {
    fail(RNNK_INVALID_VALUE, "%s_size: expected at least %lld bytes, got %zu", name, ll{needed}, size);
  }
}

namespace {

// What a parameter is to be: [rows, columns], a bias with columns = 0; absent where the problem has none.
struct Parameter {
  int64_t rows, columns;
  bool exists;
};

void check_parameter(const Problem& p, const char* name, const rnnk_tensor& t, const Parameter& is, Wanted wanted) {
  const auto [rows, columns, exists] = is;
  if (!t.data) {
    if (exists && wanted == Wanted::all) fail(RNNK_INVALID_VALUE, "%s: expected a tensor, got NULL", name);
    return;
  }
  const bool bias = columns == 0;
  if (!exists) {
    fail(RNNK_INVALID_VALUE, "%s: expected NULL %s, got a tensor", name,
         bias && !p.bias ? "with RNNK_PROBLEM_NO_BIAS" : "for this problem");
  }
  check_tensor(p, t, name, true, false);
  const int64_t last = bias ? t.stride[0] : t.stride[1];
  if ((last != 1 && (bias ? rows : columns) > 1) || (!bias && rows > 1 && t.stride[0] != columns)) {
    fail(RNNK_INVALID_VALUE, "%s: expected a contiguous tensor, got strides %lld, %lld", name, ll{t.stride[0]},
         ll{t.stride[1]});
  }
}

// The weights of a problem with RNNK_PROBLEM_INT8: no scale of bytes stands for NaN or infinity.
void check_finite(const Problem& p, const char* name, const rnnk_tensor& t, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = read<float>(t.data, p.dtype, i);
    if (!std::isfinite(value)) fail(RNNK_INVALID_VALUE, "%s: expected finite weights for int8, got %g", name, double{value});
  }
}

void check_marks(const rnnk_tensor& marks, const char* name) {
  if (!marks.data) return;
  if (marks.reserved) fail(RNNK_INVALID_VALUE, "%s.reserved: expected 0, got %d", name, marks.reserved);
  if (marks.dtype != RNNK_UINT8) {
    fail(RNNK_INVALID_TYPE, "%s: expected dtype uint8, got %s", name, dtype_name(marks.dtype));
  }
}

void check_masks(const Network& n) {
  char reason[240] = "";
  for (int l = 0; l < std::min<int64_t>(n.num_layers, 2); ++l) {
    const Layer& layer = n.layers[l][0];
    if (layer.kernel->accepts(layer.masked, reason, sizeof reason)) continue;
    fail(RNNK_NOT_SUPPORTED, "mask, reset: kernel %s declines: %s", layer.kernel->name, reason);
  }
}

}  // namespace

void check_weights(const Network& n, const rnnk_weights* weights, Wanted wanted) {
  for (int64_t index = 0; index < n.count(); ++index) {
    const Problem& p = n.problem(index / n.directions, index % n.directions, false);
    const char* const array = wanted == Wanted::all ? "weights" : "dweights";
    const rnnk_weights w = weights_at(weights, index, array);
    const int64_t gates = cell_info(p.cell)->gates * p.hidden_size, K = param_rows(p);
    const bool matrix = !p.has(RNNK_PROBLEM_INDEPENDENT);
    const auto check = [&](const char* name, const rnnk_tensor& t, const Parameter& is) {
      char full[64];
      std::snprintf(full, sizeof full, "%s[%lld].%s", array, ll{index}, name);
      check_parameter(p, full, t, is, wanted);
      if (p.form == WeightForm::int8 && wanted == Wanted::all && t.data && is.columns > 0)
        check_finite(p, full, t, is.rows * is.columns);
    };
    check("weight_ih", w.weight_ih, {gates, p.input_size, !p.given_gx});
    check("weight_hh", w.weight_hh, {gates, p.weight_hh_columns(), matrix});
    check("bias_ih", w.bias_ih, {gates, 0, p.bias && !p.given_gx});
    check("bias_hh", w.bias_hh, {gates, 0, p.bias && matrix});
    check("weight_hr", w.weight_hr, {p.output_size, p.hidden_size, p.projects});
    check("params", w.params, {K, p.hidden_size, K > 0});
  }
}

void check_args(const Network& n, const rnnk_args& a, Pass pass) {
  const Problem& problem = n.first();
  check_extent(n, a.seq_len, a.batch);
  check_lengths(a.lengths, a.seq_len, a.batch, n.on_cpu());  // the kernels of a GPU check values
  if (!n.on_cpu()) report_faults(problem.device_index);
  const bool backward = pass == Pass::backward, any = a.seq_len > 0 && a.batch > 0;
  if (problem.form != WeightForm::own && (backward || a.reserve)) {
    fail(RNNK_NOT_SUPPORTED, "%s: weights in %s are for inference, without a reserve and rnnk_backward",
         backward ? "args" : "reserve", form_name(problem.form));
  }
  const CellInfo& cell = *cell_info(problem.cell);
  if (cell.states == 1 && (a.c_0.data || a.c_n.data || a.dc_n.data || a.dc_0.data)) {
    fail(RNNK_INVALID_VALUE, "c_0, c_n, dc_n, dc_0: cell %s has no cell state", cell.name);
  }
  if (a.flags & ~uint32_t{RNNK_CALL_TRAIN}) fail(RNNK_INVALID_VALUE, "flags: unknown bits in 0x%x", a.flags);
  check_marks(a.mask, "mask"), check_marks(a.reset, "reset");
  if (a.mask.data || a.reset.data) check_masks(n);
  if (!(a.clip_dh >= 0)) fail(RNNK_INVALID_VALUE, "clip_dh: expected a bound above 0, or 0 for none, got %g", a.clip_dh);
  check_tensor(problem, a.x, "x", any, false);
  check_tensor(problem, a.y, "y", any && !(backward && problem.recompute), false);
  check_tensor(problem, a.h_0, "h_0", false, false);
  check_tensor(problem, a.c_0, "c_0", false, true);
  if (backward) {
    check_tensor(problem, a.dy, "dy", false, false);
    check_tensor(problem, a.dh_n, "dh_n", false, true);
    check_tensor(problem, a.dc_n, "dc_n", false, true);
    check_tensor(problem, a.dx, "dx", false, false);
    check_tensor(problem, a.dh_0, "dh_0", false, true);
    check_tensor(problem, a.dc_0, "dc_0", false, true);
    for (int64_t l = 0; a.dh && l < n.num_layers; ++l) check_tensor(problem, a.dh[l], "dh", any, true);
    if (a.dweights) check_weights(n, a.dweights, Wanted::some);
  } else {
    check_tensor(problem, a.h_n, "h_n", false, false);
    check_tensor(problem, a.c_n, "c_n", false, true);
  }
  if (a.weights) check_weights(n, a.weights, Wanted::all);
  check_room("packed", a.packed, a.packed_size, header_bytes(n) + n.packed_bytes);
}

}  // namespace rnnk
