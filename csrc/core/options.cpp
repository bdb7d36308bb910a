// The options of a problem: which go with which cell and with each other, and what runs when there are some.
#include <cmath>

#include "core/problem.h"

namespace rnnk {
namespace {

using ll = long long;

struct Named {
  uint32_t flag;
  const char* name;
};
constexpr Named kNamed[] = {{RNNK_PEEPHOLE, "peephole"},
                            {RNNK_COUPLED, "coupled"},
                            {RNNK_RESET_BEFORE, "reset_before"},
                            {RNNK_LAYER_NORM, "layer_norm"},
                            {RNNK_INDEPENDENT, "independent"}};

void only_for(const Problem& p, uint32_t flag, bool has_it) {
  if (!p.has(flag) || has_it) return;
  for (const Named& n : kNamed) {
    if (n.flag == flag) fail(RNNK_INVALID_VALUE, "problem.flags: cell %s has no %s", cell_info(p.cell)->name, n.name);
  }
}

void not_both(bool one, const char* one_name, bool other, const char* other_name) {
  if (one && other) fail(RNNK_NOT_SUPPORTED, "%s and %s: no kernel does both at once", one_name, other_name);
}

void check_probability(const char* name, double p) {
  if (!(p >= 0 && p <= 1)) fail(RNNK_INVALID_VALUE, "%s: expected 0 to 1, got %g", name, p);
}

int shape_of(const Problem& p) {
  return (p.has(RNNK_LAYER_NORM) ? kNormShape : 0) | (p.projects ? kProjectedShape : 0) |
         (p.has(RNNK_RESET_BEFORE) ? kResetBeforeShape : 0) | (p.has(RNNK_INDEPENDENT) ? kIndependentShape : 0);
}

int variant_of(int cell, int shape) {
#define RNNK_CELL(value, name, type)
#define RNNK_VARIANT(header, name, type, its_shape) \
  if (cell == RNNK_CELL_##name && shape == (its_shape)) return __LINE__;
#include "rnnkern/cells.inc"
#undef RNNK_VARIANT
#undef RNNK_CELL
  return -1;
}

}  // namespace

void take_options(Problem& p, const rnnk_problem& from) {
  const bool lstm = p.cell == RNNK_CELL_lstm, gru = p.cell == RNNK_CELL_gru, slstm = p.cell == RNNK_CELL_slstm;
  const bool elman = !lstm && !gru && !slstm;
  p.flags = from.flags & ~uint32_t{RNNK_NO_BIAS | RNNK_REVERSE | RNNK_RECOMPUTE | RNNK_TF32};
  only_for(p, RNNK_PEEPHOLE, lstm);
  only_for(p, RNNK_COUPLED, lstm);
  only_for(p, RNNK_RESET_BEFORE, gru);
  only_for(p, RNNK_INDEPENDENT, elman);
  only_for(p, RNNK_LAYER_NORM, !slstm);

  if (from.proj_size < 0 || from.proj_size > kMostUnits || (from.proj_size && !lstm)) {
    fail(RNNK_INVALID_VALUE, "proj_size: expected %s, got %lld", lstm ? "0 to 2^24" : "0 for this cell", ll{from.proj_size});
  }
  p.projects = from.proj_size > 0;
  if (p.projects) p.output_size = from.proj_size;
  p.heads = from.heads > 0 ? from.heads : 1;
  if (from.heads < 0 || p.hidden_size % p.heads) {
    fail(RNNK_INVALID_VALUE, "heads: expected a divisor of hidden_size %lld, got %lld", ll{p.hidden_size}, ll{from.heads});
  }
  const bool norm = p.has(RNNK_LAYER_NORM), heads = p.heads > 1;
  not_both(norm, "layer_norm", p.has(RNNK_RESET_BEFORE), "reset_after=False");
  not_both(norm, "layer_norm", p.has(RNNK_INDEPENDENT), "independent");
  not_both(norm, "layer_norm", heads, "heads");
  not_both(p.projects, "proj_size", heads, "heads");
  not_both(p.has(RNNK_INDEPENDENT), "independent", heads, "heads");

  // In the type that kernels compute in.
  const auto computed = [&](double v) { return p.dtype == RNNK_FLOAT64 ? v : static_cast<double>(static_cast<float>(v)); };
  if (!(from.clip >= 0) || (from.clip > 0 && computed(from.clip) == 0))
    fail(RNNK_INVALID_VALUE, "clip: expected a bound above 0, or 0 for none, got %g", from.clip);
  if (slstm && from.clip > 0) fail(RNNK_INVALID_VALUE, "clip: expected 0 for this cell, got %g", from.clip);
  p.clip = from.clip;
  const int activations = slstm ? 0 : lstm ? 3 : gru ? 2 : 1;
  for (int i = 0; i < 3; ++i) {
    const rnnk_activation& a = from.activations[i];
    if (a.kind < 0 || a.kind > RNNK_SOFTPLUS || (a.kind && i >= activations)) {
      fail(RNNK_INVALID_VALUE, "activations[%d]: expected %s, got kind %d", i,
           i < activations ? "a value of rnnk_activation_kind" : "none for this cell", a.kind);
    }
    if (!std::isfinite(computed(a.alpha)) || !std::isfinite(computed(a.beta))) {
      fail(RNNK_INVALID_VALUE, "activations[%d]: expected finite alpha and beta, got %g and %g", i, a.alpha, a.beta);
    }
    p.activations[i] = a;
  }
  check_probability("zoneout[0]", from.zoneout[0]);
  check_probability("zoneout[1]", from.zoneout[1]);
  check_probability("recurrent_dropout", from.recurrent_dropout);
  if (from.zoneout[1] > 0 && !lstm) {
    fail(RNNK_INVALID_VALUE, "zoneout[1]: %s",
         slstm ? "c of this cell does not stand alone" : "this cell has no cell state");
  }
  for (int i = 0; i < 2; ++i) p.zoneout[i] = from.zoneout[i];
  p.recurrent_dropout = from.recurrent_dropout;

  bool any = cell_info(p.cell)->has_options || p.flags || p.projects || heads || p.clip > 0 || p.random();
  for (const rnnk_activation& a : p.activations) any = any || a.kind;
  if (!any) return;
  p.variant = variant_of(p.cell, shape_of(p));
  if (p.variant < 0) fail(RNNK_NOT_SUPPORTED, "no kernel does cell %s with these options", cell_info(p.cell)->name);
}

int own_param_rows(const Problem& p) { return p.has(RNNK_INDEPENDENT) ? 2 : p.has(RNNK_PEEPHOLE) ? 3 : 0; }

int64_t param_rows(const Problem& p) {
  const int gates = cell_info(p.cell)->gates;
  return own_param_rows(p) + (p.has(RNNK_LAYER_NORM) ? 2 * gates + (p.cell == RNNK_CELL_lstm ? 2 : 0) : 0);
}

}  // namespace rnnk
