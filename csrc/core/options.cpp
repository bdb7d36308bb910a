// The options of a problem: which go with which cell and with each other, and what runs when there are some.
#include <cmath>

#include "core/problem.h"

namespace rnnk {
namespace {

using ll = long long;

// The options that not every cell takes. flag: of rnnk_problem, or 0 where the option is a field of its own.
struct Option {
  Takes takes;
  uint32_t flag;
  const char* name;
};
constexpr Option kOptions[] = {{kTakesProjection, 0, "proj_size"},
                               {kTakesPeephole, RNNK_PROBLEM_PEEPHOLE, "peephole"},
                               {kTakesCoupled, RNNK_PROBLEM_COUPLED, "coupled"},
                               {kTakesClip, 0, "clip"},
                               {kTakesResetBefore, RNNK_PROBLEM_RESET_BEFORE, "reset_before"},
                               {kTakesLayerNorm, RNNK_PROBLEM_LAYER_NORM, "layer_norm"},
                               {kTakesCellZoneout, 0, "zoneout of c"},
                               {kTakesIndependent, RNNK_PROBLEM_INDEPENDENT, "independent"}};

constexpr uint32_t option_flags() {
  uint32_t flags = 0;
  for (const Option& option : kOptions) flags |= option.flag;
  return flags;
}

void not_both(bool one, const char* one_name, bool other, const char* other_name) {
  if (one && other) fail(RNNK_NOT_SUPPORTED, "%s and %s: no kernel does both at once", one_name, other_name);
}

// In the type that kernels compute in.
double computed(const Problem& p, double v) {
  return p.dtype == RNNK_FLOAT64 ? v : static_cast<double>(static_cast<float>(v));
}

// Those that are given; RNNK_OF_CELL leaves what p has.
void take_activations(Problem& p, const rnnk_activation (&given)[3], const char* name, const CellInfo& cell) {
  const int count = cell.activation_count();
  for (int i = 0; i < 3; ++i) {
    const rnnk_activation& a = given[i];
    if (a.kind < 0 || a.kind > RNNK_SOFTPLUS || (a.kind && i >= count)) {
      fail(RNNK_INVALID_VALUE, "%s[%d]: expected %s, got kind %d", name, i,
           i < count ? "a value of rnnk_activation_kind" : "none for this cell", a.kind);
    }
    if (!std::isfinite(computed(p, a.alpha)) || !std::isfinite(computed(p, a.beta))) {
      fail(RNNK_INVALID_VALUE, "%s[%d]: expected finite alpha and beta, got %g and %g", name, i, a.alpha, a.beta);
    }
    if (a.reserved) fail(RNNK_INVALID_VALUE, "%s[%d].reserved: expected 0, got %d", name, i, a.reserved);
    if (a.kind) p.activations[i] = a;
  }
}

int shape_of(const Problem& p) {
  return (p.has(RNNK_PROBLEM_LAYER_NORM) ? kNormShape : 0) | (p.projects ? kProjectedShape : 0) |
         (p.has(RNNK_PROBLEM_RESET_BEFORE) ? kResetBeforeShape : 0) |
         (p.has(RNNK_PROBLEM_INDEPENDENT) ? kIndependentShape : 0);
}

int variant_of(int cell, int shape) {
#define RNNK_CELL(value, name, type)
#define RNNK_VARIANT(name, type, its_shape) \
  if (cell == RNNK_CELL_##name && shape == (its_shape)) return __LINE__;
#include "rnnkern/cells.inc"
#undef RNNK_VARIANT
#undef RNNK_CELL
  return -1;
}

}  // namespace

const char* cell_option(const CellInfo& cell, int i) {
  for (const Option& option : kOptions) {
    if ((cell.takes & option.takes) && i-- == 0) return option.name;
  }
  return nullptr;
}

void take_options(Problem& p, const rnnk_problem& from, int direction) {
  const CellInfo& cell = *cell_info(p.cell);
  p.flags = from.flags & option_flags();
  for (const Option& option : kOptions) {
    if (p.has(option.flag) && !(cell.takes & option.takes)) {
      fail(RNNK_INVALID_VALUE, "problem.flags: cell %s has no %s", cell.name, option.name);
    }
  }

  const bool may_project = cell.takes & kTakesProjection;
  if (from.proj_size < 0 || from.proj_size > kMostUnits || (from.proj_size && !may_project)) {
    fail(RNNK_INVALID_VALUE, "proj_size: expected %s, got %lld", may_project ? "0 to 2^24" : "0 for this cell",
         ll{from.proj_size});
  }
  p.projects = from.proj_size > 0;
  if (p.projects) p.output_size = from.proj_size;
  p.heads = from.heads > 0 ? from.heads : 1;
  if (from.heads < 0 || p.hidden_size % p.heads) {
    fail(RNNK_INVALID_VALUE, "heads: expected a divisor of hidden_size %lld, got %lld", ll{p.hidden_size}, ll{from.heads});
  }
  const bool norm = p.has(RNNK_PROBLEM_LAYER_NORM), heads = p.heads > 1;
  not_both(norm, "layer_norm", p.has(RNNK_PROBLEM_RESET_BEFORE), "reset_after=False");
  not_both(norm, "layer_norm", p.has(RNNK_PROBLEM_INDEPENDENT), "independent");
  not_both(norm, "layer_norm", heads, "heads");
  not_both(p.projects, "proj_size", heads, "heads");
  not_both(p.has(RNNK_PROBLEM_INDEPENDENT), "independent", heads, "heads");

  if (!(from.clip >= 0) || (from.clip > 0 && computed(p, from.clip) == 0))
    fail(RNNK_INVALID_VALUE, "clip: expected a bound above 0, or 0 for none, got %g", from.clip);
  if (from.clip > 0 && !(cell.takes & kTakesClip))
    fail(RNNK_INVALID_VALUE, "clip: expected 0 for this cell, got %g", from.clip);
  p.clip = from.clip;
  take_activations(p, from.activations, "activations", cell);
  if (direction == 1) take_activations(p, from.activations_reverse, "activations_reverse", cell);
  check_probability("zoneout[0]", from.zoneout[0]);
  check_probability("zoneout[1]", from.zoneout[1]);
  check_probability("recurrent_dropout", from.recurrent_dropout);
  if (from.zoneout[1] > 0 && !(cell.takes & kTakesCellZoneout)) {
    fail(RNNK_INVALID_VALUE, "zoneout[1]: %s",
         cell.states > 1 ? "c of this cell does not stand alone" : "this cell has no cell state");
  }
  for (int i = 0; i < 2; ++i) p.zoneout[i] = from.zoneout[i];
  p.recurrent_dropout = from.recurrent_dropout;
}

void choose_variant(Problem& p) {
  const CellInfo& cell = *cell_info(p.cell);
  bool any = cell.has_options || p.masked || p.flags || p.projects || p.heads > 1 || p.clip > 0 || p.random();
  for (const rnnk_activation& a : p.activations) any = any || a.kind;
  if (!any) return;
  p.variant = variant_of(p.cell, shape_of(p));
  if (p.variant < 0) fail(RNNK_NOT_SUPPORTED, "no kernel does cell %s with these options", cell.name);
}

int own_param_rows(const Problem& p) { return p.has(RNNK_PROBLEM_INDEPENDENT) ? 2 : p.has(RNNK_PROBLEM_PEEPHOLE) ? 3 : 0; }

int64_t param_rows(const Problem& p) {
  const CellInfo& cell = *cell_info(p.cell);  // with layer_norm c is normalised, too
  return own_param_rows(p) + (p.has(RNNK_PROBLEM_LAYER_NORM) ? 2 * cell.gates + (cell.states > 1 ? 2 : 0) : 0);
}

}  // namespace rnnk
