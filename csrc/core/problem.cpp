#include "core/problem.h"

#include <cstdarg>
#include <cstddef>
#include <cstdio>

#include "core/cells.generated.h"
#include "core/device.h"

namespace rnnk {

void fail(rnnk_status code, const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  throw Failure{code, text};
}

const CellInfo* cell_info(int cell) {
  switch (cell) {
#define RNNK_CELL(value, name, type)                                                                                      \
  case value: {                                                                                                           \
    static constexpr CellInfo info{#name,         type::kGates,                                                           \
                                   type::kStates, type::kHasOptions,                                                      \
                                   type::kTakes,  {type::kActivations[0], type::kActivations[1], type::kActivations[2]}}; \
    return &info;                                                                                                         \
  }
#include "rnnkern/cells.inc"
#undef RNNK_CELL
    default: return nullptr;
  }
}

int64_t dtype_size(int dtype) {
  switch (dtype) {
    case RNNK_FLOAT64: return 8;
    case RNNK_FLOAT32: return 4;
    default: return 2;
  }
}

const char* dtype_name(int dtype) {
  static const char* const names[] = {"float32", "float64", "bfloat16", "float16"};
  return dtype >= 0 && dtype < 4 ? names[dtype] : "unknown";
}

Problem check_problem(const rnnk_problem* given) {
  const rnnk_problem whole = adopted(given, offsetof(rnnk_problem, proj_size), "problem"), *const p = &whole;
  if (!cell_info(p->cell)) fail(RNNK_INVALID_VALUE, "problem.cell: no cell has the number %d", p->cell);
  if (p->dtype < 0 || p->dtype > RNNK_FLOAT16)
    fail(RNNK_INVALID_TYPE, "problem.dtype: no dtype has the number %d", p->dtype);
  if (p->device != RNNK_CPU && p->device != RNNK_CUDA) {
    fail(RNNK_INVALID_VALUE, "problem.device: expected RNNK_CPU (0) or RNNK_CUDA (1), got %d", p->device);
  }
  const bool gpu = p->device == RNNK_CUDA;
  if (!gpu && p->device_index != 0) fail(RNNK_INVALID_VALUE, "problem.device_index: the CPU is 0, got %d", p->device_index);
  if (gpu) check_device(p->device_index, "problem.device_index");
  constexpr uint32_t known = RNNK_NO_BIAS | RNNK_REVERSE | RNNK_RECOMPUTE | RNNK_PEEPHOLE | RNNK_COUPLED |
                             RNNK_RESET_BEFORE | RNNK_LAYER_NORM | RNNK_INDEPENDENT | RNNK_MASKED | RNNK_TF32;
  if (p->flags & ~known) {
    fail(RNNK_INVALID_VALUE, "problem.flags: unknown bits in 0x%x", p->flags);
  }
  if (p->input_size < 1 || p->input_size > kMostUnits) {
    fail(RNNK_INVALID_VALUE, "input_size: expected 1 to %lld, got %lld", static_cast<long long>(kMostUnits),
         static_cast<long long>(p->input_size));
  }
  if (p->hidden_size < 1 || p->hidden_size > kMostUnits) {
    fail(RNNK_INVALID_VALUE, "hidden_size: expected 1 to %lld, got %lld", static_cast<long long>(kMostUnits),
         static_cast<long long>(p->hidden_size));
  }
  if ((p->flags & RNNK_TF32) && !(gpu && p->dtype == RNNK_FLOAT32)) {
    fail(RNNK_INVALID_VALUE, "problem.flags: RNNK_TF32 is for float32 on RNNK_CUDA, got %s on %s", dtype_name(p->dtype),
         gpu ? "RNNK_CUDA" : "RNNK_CPU");
  }
  Problem q;
  q.cell = p->cell;
  q.dtype = p->dtype;
  q.device = p->device;
  q.device_index = p->device_index;
  q.tf32 = p->flags & RNNK_TF32;
  q.bias = !(p->flags & RNNK_NO_BIAS);
  q.reverse = p->flags & RNNK_REVERSE;
  q.recompute = p->flags & RNNK_RECOMPUTE;
  q.input_size = p->input_size;
  q.hidden_size = q.output_size = p->hidden_size;
  take_options(q, *p);
  return q;
}

}  // namespace rnnk
