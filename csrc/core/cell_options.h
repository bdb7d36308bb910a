// A problem's options as the cells read them.
#pragma once
#include "cells/options.h"
#include "core/problem.h"

namespace rnnk {
namespace {  // internal linkage: compiled for different instruction sets

template <class T>
CellOptions<T> cell_options(const Problem& p) {
  const CellInfo& cell = *cell_info(p.cell);
  const auto function = [&](int i) {
    const rnnk_activation& a = p.activations[i];
    if (!a.kind) return Function<T>{cell.activations[i], T(1), T(0)};
    return Function<T>{static_cast<Activate>(a.kind), static_cast<T>(a.alpha), static_cast<T>(a.beta)};
  };
  CellOptions<T> o{};
  o.f = function(0), o.g = function(1), o.h = function(2);
  o.clipped = p.clip > 0;
  o.clip = static_cast<T>(p.clip);
  o.peephole = p.has(RNNK_PROBLEM_PEEPHOLE), o.coupled = p.has(RNNK_PROBLEM_COUPLED);
  o.keeps_input = o.clipped;
  const Activate kinds[] = {o.f.kind, o.g.kind, o.h.kind};
  for (int i = 0; i < cell.activation_count(); ++i) {
    const Activate kind = kinds[i];
    const bool follows = kind == Activate::sigmoid || kind == Activate::tanh || kind == Activate::relu;
    o.keeps_input = o.keeps_input || !follows;
  }
  return o;
}

}  // namespace
}  // namespace rnnk
