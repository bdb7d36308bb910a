// Stands where csrc/cpu/instantiate.h does when tests/kernels/test_math.py compiles an ISA file: instead of making a kernel of the
// file's value types, it hands them to the sweep, so that the very Vec of each kernel is measured.
#pragma once
#include "core/kernel.h"
#include "sweep.h"

namespace rnnk {
namespace {

template <class Vec>
struct Native {
  using V = Vec;
};
template <class Vec>
struct Widened {};
template <class Float, class Double, class BFloat16>
struct Arithmetics {
  using F = Float;
  using D = Double;
};

template <class List>
Kernel cpu_kernel(const char* name, uint32_t features) {
  sweep_float = sweep<typename List::F::V>;
  sweep_double = sweep<typename List::D::V>;
  return {name, RNNK_CPU, features, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
}

template <class Vec>
constexpr int unit_host() {
  return 0;
}

}  // namespace

using UnitHost = int;

}  // namespace rnnk
