#include "core/check.h"

#include <algorithm>

#include "core/device.h"
#include "core/pack_header.h"
#include "core/recompute.h"

namespace rnnk {
namespace {

using ll = long long;

void check_aligned(const void* p, const char* name) {
  if (reinterpret_cast<uintptr_t>(p) % 64)
    fail(RNNK_INVALID_VALUE, "%s: expected a 64-byte aligned pointer, got %p", name, p);
}

void check_pointer(const char* name, const void* p, int64_t needed) {
  if (needed > 0 && !p) fail(RNNK_INVALID_VALUE, "%s: expected %lld bytes, got NULL", name, ll{needed});
  check_aligned(p, name);
}

void check_size(const char* name, const void* p, size_t size, int64_t needed) {
  check_pointer(name, p, needed);
  if (size < static_cast<size_t>(needed)) {
    fail(RNNK_INVALID_VALUE, "%s_size: expected at least %lld bytes, got %zu", name, ll{needed}, size);
  }
}

// state: c and the gradients of states, which half-type problems may hold in float32 too.
void check_tensor(const Problem& problem, const rnnk_tensor& t, const char* name, bool required, bool state) {
  if (!t.data) {
    if (required) fail(RNNK_INVALID_VALUE, "%s: expected a tensor, got NULL", name);
    return;
  }
  const bool half = problem.dtype == RNNK_BFLOAT16 || problem.dtype == RNNK_FLOAT16;
  if (t.dtype == problem.dtype || (state && half && t.dtype == RNNK_FLOAT32)) return;
  fail(RNNK_INVALID_TYPE, "%s: expected dtype %s%s, got %s", name, dtype_name(problem.dtype),
       state && half ? " or float32" : "", dtype_name(t.dtype));
}

}  // namespace

void check_extent(const Problem& problem, int64_t seq_len, int64_t batch) {
  if (seq_len < 0 || seq_len >= int64_t{1} << 40) {
    fail(RNNK_INVALID_VALUE, "seq_len: expected 0 to 2^40 - 1, got %lld", ll{seq_len});
  }
  if (batch < 0 || batch >= int64_t{1} << 31) fail(RNNK_INVALID_VALUE, "batch: expected 0 to 2^31 - 1, got %lld", ll{batch});
  // Kernels keep up to some 20 numbers of 8 bytes per step, row and unit, with units padded by up to 64: within 2^50 of these
  // (four million GB) every size stays below 2^63.
  int64_t total = 0;
  const int64_t width = std::max({problem.input_size, problem.hidden_size, problem.output_size}) + 64;
  if (__builtin_mul_overflow(seq_len, batch, &total) || __builtin_mul_overflow(total, width, &total) ||
      total > int64_t{1} << 50) {
    fail(RNNK_INVALID_VALUE, "seq_len, batch: expected at most 2^50 numbers in a tensor, got %lld * %lld * %lld",
         ll{seq_len}, ll{batch}, ll{width - 64});
  }
}

void check_lengths(const int64_t* lengths, int64_t seq_len, int64_t batch) {
  for (int64_t i = 0; lengths && i < batch; ++i) {
    if (lengths[i] < 0 || lengths[i] > seq_len) {
      fail(RNNK_INVALID_VALUE, "lengths[%lld]: expected 0 to %lld (seq_len), got %lld", ll{i}, ll{seq_len}, ll{lengths[i]});
    }
  }
}

// Which parameters a problem has.
struct Has {
  bool weight_hh, bias_ih, bias_hh, weight_hr, params;
  explicit Has(const Problem& p)
      : weight_hh(!p.has(RNNK_INDEPENDENT)), bias_ih(p.bias), bias_hh(p.bias && weight_hh), weight_hr(p.projects),
        params(param_rows(p) > 0) {}
};

void check_weights(const Problem& problem, const rnnk_weights& w) {
  const Has has(problem);
  const struct {
    const char* name;
    const void* data;
    bool wanted;
  } all[] = {{"weight_ih", w.weight_ih, true},          {"weight_hh", w.weight_hh, has.weight_hh},
             {"bias_ih", w.bias_ih, has.bias_ih},       {"bias_hh", w.bias_hh, has.bias_hh},
             {"weight_hr", w.weight_hr, has.weight_hr}, {"params", w.params, has.params}};
  for (const auto& each : all) {
    if (!!each.data == each.wanted) continue;
    const bool bias = each.data == w.bias_ih || each.data == w.bias_hh;
    fail(RNNK_INVALID_VALUE, "weights.%s: expected %s, got %s", each.name,
         each.wanted ? "a pointer"
         : bias      ? "NULL with RNNK_NO_BIAS"
                     : "NULL for this problem",
         each.data ? "a pointer" : "NULL");
  }
}

// Gradients of parameters that the problem does not have must not be asked for.
void check_gradients(const Problem& problem, const rnnk_args& a) {
  const Has has(problem);
  const struct {
    const char* name;
    const void* data;
    bool there;
  } all[] = {{"dweight_hh", a.dweight_hh, has.weight_hh},
             {"dbias_ih", a.dbias_ih, has.bias_ih},
             {"dbias_hh", a.dbias_hh, has.bias_hh},
             {"dweight_hr", a.dweight_hr, has.weight_hr},
             {"dparams", a.dparams, has.params}};
  for (const auto& each : all) {
    if (each.data && !each.there)
      fail(RNNK_INVALID_VALUE, "%s: expected NULL, this problem has no such parameter", each.name);
  }
}

void check_args(const Problem& problem, const Kernel& kernel, const rnnk_args& a, Pass pass) {
  check_extent(problem, a.seq_len, a.batch);
  if (problem.device == RNNK_CPU) check_lengths(a.lengths, a.seq_len, a.batch);  // those of a GPU its kernels check
  else report_faults(problem.device_index);
  const bool backward = pass == Pass::backward, any = a.seq_len > 0 && a.batch > 0;
  const bool cell_state = cell_info(problem.cell)->states > 1;
  if (!cell_state && (a.c_0.data || a.c_n.data || a.dc_n.data || a.dc_0.data)) {
    fail(RNNK_INVALID_VALUE, "c_0, c_n, dc_n, dc_0: cell %s has no cell state", cell_info(problem.cell)->name);
  }
  if (a.flags & ~uint32_t{RNNK_ACCUMULATE_DX | RNNK_TRAIN}) fail(RNNK_INVALID_VALUE, "flags: unknown bits in 0x%x", a.flags);
  if ((a.mask || a.reset) && !problem.has(RNNK_MASKED)) {
    fail(RNNK_INVALID_VALUE, "mask, reset: the plan was made without RNNK_MASKED");
  }
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
    check_tensor(problem, a.dh, "dh", false, true);
    check_gradients(problem, a);
  } else {
    check_tensor(problem, a.h_n, "h_n", false, false);
    check_tensor(problem, a.c_n, "c_n", false, true);
  }
  const Sizes sizes = plan_sizes(problem, kernel, a.seq_len, a.batch);
  check_pointer("packed", a.packed, header_bytes(problem) + sizes.packed);  // rnnk_pack_weights checked its size
  check_size("workspace", a.workspace, a.workspace_size, backward ? sizes.workspace_backward : sizes.workspace_forward);
  if (backward || a.reserve) check_size("reserve", a.reserve, a.reserve_size, sizes.reserve);
}

void check_shared_dx(const Problem& one, const rnnk_args& a, const Problem& other, const rnnk_args& b) {
  if (!a.dx.data || a.dx.data != b.dx.data) return;
  if (!(b.flags & RNNK_ACCUMULATE_DX)) {
    fail(RNNK_INVALID_VALUE, "other_args.flags: expected RNNK_ACCUMULATE_DX, since dx is that of one_args");
  }
  const bool same = std::equal(a.dx.stride, a.dx.stride + 3, b.dx.stride) && a.seq_len == b.seq_len && a.batch == b.batch &&
                    one.input_size == other.input_size && one.dtype == other.dtype;
  if (!same) fail(RNNK_INVALID_VALUE, "other_args.dx: expected the steps, rows, units and strides of one_args.dx");
  if (one.device != other.device || one.device_index != other.device_index || a.cuda_stream != b.cuda_stream) {
    fail(RNNK_INVALID_VALUE, "other_args.cuda_stream: expected the device and stream of one_args, since dx is shared");
  }
}

}  // namespace rnnk
