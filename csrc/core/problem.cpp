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

void check_between(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  fail(RNNK_INVALID_VALUE, "%s: expected %lld to %lld, got %lld", name, static_cast<long long>(least),
       static_cast<long long>(most), static_cast<long long>(value));
}

void check_probability(const char* name, double p) {
  if (!(p >= 0 && p <= 1)) fail(RNNK_INVALID_VALUE, "%s: expected 0 to 1, got %g", name, p);
}

int64_t dtype_size(int dtype) {
  switch (dtype) {
    case RNNK_FLOAT64: return 8;
    case RNNK_FLOAT32: return 4;
    default: return 2;
  }
}

const char* dtype_name(int dtype) {
  static const char* const names[] = {"float32", "float64", "bfloat16", "float16", "int32", "int64", "uint8"};
  return dtype >= 0 && dtype < 7 ? names[dtype] : "unknown";
}

const char* form_name(WeightForm form) {
  static const char* const names[] = {"", "int8", "bf16"};
  return names[static_cast<int>(form)];
}

namespace {

void check_form(const rnnk_problem& p) {
  constexpr uint32_t forms = RNNK_PROBLEM_INT8 | RNNK_PROBLEM_BF16_WEIGHTS;
  if ((p.flags & forms) == forms) {
    fail(RNNK_INVALID_VALUE, "problem.flags: expected one of RNNK_PROBLEM_INT8 and RNNK_PROBLEM_BF16_WEIGHTS, got both");
  }
  if (p.device != RNNK_CPU || (p.dtype != RNNK_FLOAT32 && p.dtype != RNNK_FLOAT16)) {
    fail(RNNK_NOT_SUPPORTED, "problem.flags: %s is for float32 and float16 on RNNK_CPU, got %s on %s",
         p.flags & RNNK_PROBLEM_INT8 ? "RNNK_PROBLEM_INT8" : "RNNK_PROBLEM_BF16_WEIGHTS", dtype_name(p.dtype),
         p.device == RNNK_CPU ? "RNNK_CPU" : "RNNK_CUDA");
  }
  if (!(p.flags & RNNK_PROBLEM_INT8)) return;
  const int64_t above = p.num_layers > 1 ? (p.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1) * p.hidden_size : 0;
  const int64_t inputs = p.flags & RNNK_PROBLEM_GIVEN_GX ? 0 : p.input_size;
  for (const int64_t terms : {inputs, p.hidden_size, above}) {
    if (terms > kMostInt8Terms) {
      fail(RNNK_NOT_SUPPORTED, "input_size, hidden_size: with RNNK_PROBLEM_INT8 a product has at most %lld terms, got %lld",
           static_cast<long long>(kMostInt8Terms), static_cast<long long>(terms));
    }
  }
}

void check_given_gx(const rnnk_problem& p) {
  if (p.device != RNNK_CPU) fail(RNNK_NOT_SUPPORTED, "problem.flags: RNNK_PROBLEM_GIVEN_GX is for RNNK_CPU, got RNNK_CUDA");
  if (p.flags & RNNK_PROBLEM_LAYER_NORM) {
    fail(RNNK_NOT_SUPPORTED,
         "problem.flags: RNNK_PROBLEM_GIVEN_GX is not for RNNK_PROBLEM_LAYER_NORM, which normalises W_ih x");
  }
  const int64_t directions = p.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1;
  const int64_t columns = directions * cell_info(p.cell)->gates * p.hidden_size;
  if (p.input_size != columns) {
    fail(RNNK_INVALID_VALUE, "input_size: with RNNK_PROBLEM_GIVEN_GX expected D*G*H, %lld, got %lld",
         static_cast<long long>(columns), static_cast<long long>(p.input_size));
  }
}

}  // namespace

rnnk_problem checked_problem(const rnnk_problem* given) {
  rnnk_problem whole = adopted(given, offsetof(rnnk_problem, num_layers), "problem"), *const p = &whole;
  if (!cell_info(p->cell)) fail(RNNK_INVALID_VALUE, "problem.cell: no cell has the number %d", p->cell);
  if (p->dtype < 0 || p->dtype > RNNK_FLOAT16)
    fail(RNNK_INVALID_TYPE, "problem.dtype: no dtype has the number %d", p->dtype);
  if (p->device != RNNK_CPU && p->device != RNNK_CUDA) {
    fail(RNNK_INVALID_VALUE, "problem.device: expected RNNK_CPU (0) or RNNK_CUDA (1), got %d", p->device);
  }
  const bool gpu = p->device == RNNK_CUDA;
  if (!gpu && p->device_index != 0) fail(RNNK_INVALID_VALUE, "problem.device_index: the CPU is 0, got %d", p->device_index);
  if (gpu) check_device(p->device_index, "problem.device_index");
  constexpr uint32_t known = RNNK_PROBLEM_NO_BIAS | RNNK_PROBLEM_RECOMPUTE | RNNK_PROBLEM_TF32 | RNNK_PROBLEM_PEEPHOLE |
                             RNNK_PROBLEM_COUPLED | RNNK_PROBLEM_RESET_BEFORE | RNNK_PROBLEM_LAYER_NORM |
                             RNNK_PROBLEM_INDEPENDENT | RNNK_PROBLEM_INT8 | RNNK_PROBLEM_GIVEN_GX |
                             RNNK_PROBLEM_BF16_WEIGHTS;
  if (p->flags & ~known) {
    fail(RNNK_INVALID_VALUE, "problem.flags: unknown bits in 0x%x", p->flags);
  }
  if (p->num_layers == 0) p->num_layers = 1;
  const int64_t most = p->flags & RNNK_PROBLEM_GIVEN_GX ? 8 * kMostUnits : kMostUnits;  // D*G*H
  check_between("input_size", p->input_size, 1, most);
  check_between("hidden_size", p->hidden_size, 1, kMostUnits);
  check_between("num_layers", p->num_layers, 1, kMostLayers);
  check_between("typical_seq_len", p->typical_seq_len, 0, (int64_t{1} << 40) - 1);
  check_between("typical_batch", p->typical_batch, 0, (int64_t{1} << 31) - 1);
  if (p->direction < RNNK_FORWARD_ONLY || p->direction > RNNK_BOTH_DIRECTIONS) {
    fail(RNNK_INVALID_VALUE, "problem.direction: expected a value of rnnk_direction, got %d", p->direction);
  }
  for (int i = 0; i < 3 && p->direction != RNNK_BOTH_DIRECTIONS; ++i) {
    if (const int kind = p->activations_reverse[i].kind) {
      fail(RNNK_INVALID_VALUE, "activations_reverse[%d]: expected none for a single direction, got kind %d", i, kind);
    }
  }
  check_probability("dropout", p->dropout);
  if (p->reserved) fail(RNNK_INVALID_VALUE, "problem.reserved: expected 0, got %d", p->reserved);
  if ((p->flags & RNNK_PROBLEM_TF32) && !(gpu && p->dtype == RNNK_FLOAT32)) {
    fail(RNNK_INVALID_VALUE, "problem.flags: RNNK_PROBLEM_TF32 is for float32 on RNNK_CUDA, got %s on %s",
         dtype_name(p->dtype), gpu ? "RNNK_CUDA" : "RNNK_CPU");
  }
  if (p->flags & (RNNK_PROBLEM_INT8 | RNNK_PROBLEM_BF16_WEIGHTS)) check_form(*p);
  if (p->flags & RNNK_PROBLEM_GIVEN_GX) check_given_gx(*p);
  for (int direction = 0; direction < 2; ++direction) layer_problem(whole, 0, direction);  // which checks the options
  return whole;
}

Problem layer_problem(const rnnk_problem& p, int64_t layer, int direction) {
  Problem q;
  q.cell = p.cell;
  q.dtype = p.dtype;
  q.device = p.device;
  q.device_index = p.device_index;
  q.tf32 = p.flags & RNNK_PROBLEM_TF32;
  if (p.flags & RNNK_PROBLEM_INT8) q.form = WeightForm::int8;
  if (p.flags & RNNK_PROBLEM_BF16_WEIGHTS) q.form = WeightForm::bf16;
  q.bias = !(p.flags & RNNK_PROBLEM_NO_BIAS);
  q.reverse = p.direction == RNNK_REVERSE_ONLY || direction == 1;
  q.recompute = p.flags & RNNK_PROBLEM_RECOMPUTE;
  q.hidden_size = q.output_size = p.hidden_size;
  take_options(q, p, direction);
  q.given_gx = layer == 0 && (p.flags & RNNK_PROBLEM_GIVEN_GX);
  if (!q.given_gx) q.input_size = layer == 0 ? p.input_size : (p.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1) * q.output_size;
  choose_variant(q);
  return q;
}

Problem choosing_problem(const rnnk_problem& p, int64_t layer) {
  const Problem first = layer_problem(p, layer);
  if (p.direction != RNNK_BOTH_DIRECTIONS || first.variant >= 0) return first;
  const Problem second = layer_problem(p, layer, 1);
  return second.variant >= 0 ? second : first;
}

}  // namespace rnnk
