// From templates to a kernel record: every cell of the list over the arithmetics of one ISA file.
#pragma once
#include "core/cells.generated.h"
#include "cpu/backward_step.h"
#include "cpu/forward_step.h"
#include "cpu/operations.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

// The arithmetics of one kernel, by the caller's dtype; void: it does not take that dtype.
template <class Float, class Double, class BFloat16>
struct Arithmetics {
  using F = Float;  // float16 too: converted at the border
  using D = Double;
  using B = BFloat16;
};

constexpr int kVariants = 1 << 20;  // numbers of variants begin here

template <class A, class Cell>
constexpr CellShape kShapeOf = shape_of<Cell>();

// The problem's cell, or the variant that runs in its place.
template <class A>
CellCode<A> cell_code(const Problem& p) {
  switch (p.variant < 0 ? p.cell : p.variant + kVariants) {
#define RNNK_CODE(Cell) return {kShapeOf<A, Cell>, ForwardStep<A, Cell>::run, BackwardStep<A, Cell>::run};
#define RNNK_CELL(value, name, type) \
  case value: RNNK_CODE(type)
#define RNNK_VARIANT(cell, type, shape) \
  case kVariants + __LINE__: RNNK_CODE(type)
#include "rnnkern/cells.inc"
#undef RNNK_VARIANT
#undef RNNK_CELL
#undef RNNK_CODE
  }
  __builtin_unreachable();  // check.cpp refuses other cells
}

// operation(cell code) over the arithmetic of the problem's dtype; accepts() has refused the dtypes that are void.
template <class List, class Operation>
auto dispatch(const Problem& p, const Operation& operation) {
  if constexpr (!std::is_void_v<typename List::D>) {
    if (p.dtype == RNNK_FLOAT64) return operation(cell_code<typename List::D>(p));
  }
  if constexpr (!std::is_void_v<typename List::F>) {
    if (p.dtype != RNNK_BFLOAT16) return operation(cell_code<typename List::F>(p));
  }
  return operation(cell_code<typename List::B>(p));
}

// Writes why not into reason (with the numbers) and returns false, or returns true.
template <class List>
bool accepts(const Problem& p, char* reason, int64_t size) {
  const auto decline = [&](const char* text) {
    int64_t i = 0;
    for (; i + 1 < size && text[i]; ++i) reason[i] = text[i];
    if (size > 0) reason[i] = 0;
    return false;
  };
  if (std::is_void_v<typename List::F> && p.dtype != RNNK_BFLOAT16) return decline("it computes bfloat16 alone");
  using B = typename List::B;
  if (p.dtype == RNNK_BFLOAT16 && B::depth > B::V::lanes && p.heads > 1 && p.hidden_size / p.heads % B::depth) {
    return decline("it multiplies 32 terms at a time, and heads have another number of units");
  }
  return true;
}

// The driver of kernels for weights in another form (unit.h) whose vectors are V.
template <class V>
constexpr UnitHost unit_host() {
  using A = Native<V>;
  return {[](const Problem& p, const WeightUnit& unit, int64_t t, int64_t b, int threads) {
            return schedule_of(cell_code<A>(p), p, t, b, false, threads, &unit);
          },
          [](const Problem& p, Space space, int64_t t, int64_t b) { return bytes_of(cell_code<A>(p), p, space, t, b); },
          [](const Problem& p, const Parameters& w, Halves halves, void* to) {
            pack_weights(cell_code<A>(p), p, w, halves, to);
          },
          [](const Problem& p, const LayerCall& a, const WeightUnit& unit) { run_forward(cell_code<A>(p), p, a, &unit); }};
}

template <class List>
Schedule schedule(const Problem& p, int64_t t, int64_t b, bool back, int threads) {
  return dispatch<List>(p, [&](const auto& cell) { return schedule_of(cell, p, t, b, back, threads); });
}

template <class List>
constexpr Kernel cpu_kernel(const char* name, uint32_t features) {
  return {
      name,
      RNNK_CPU,
      features,
      accepts<List>,
      [](const Problem& p, int64_t t, int64_t b, bool back, int threads) {
        return schedule<List>(p, t, b, back, threads).us;
      },
      [](const Problem& p, Space space, int64_t t, int64_t b) {
        return dispatch<List>(p, [&](const auto& cell) { return bytes_of(cell, p, space, t, b); });
      },
      gradient_steps,
      nullptr,
      [](const Problem& p, const Parameters& w, Halves halves, void* to) {
        dispatch<List>(p, [&](const auto& cell) { pack_weights(cell, p, w, halves, to); });
      },
      [](const Problem& p, const LayerCall& a) { dispatch<List>(p, [&](const auto& cell) { run_forward(cell, p, a); }); },
      [](const Problem& p, const LayerCall& a) { dispatch<List>(p, [&](const auto& cell) { run_backward(cell, p, a); }); },
      schedule<List>};
}

}  // namespace
}  // namespace rnnk
