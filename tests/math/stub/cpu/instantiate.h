// Stands where csrc/cpu/instantiate.h does when tests/test_math.py compiles an ISA file: instead of making a kernel of the
// file's value types, it hands them to the sweep, so that the very Vec of each kernel is measured.
#pragma once
#include "core/kernel.h"
#include "sweep.h"

namespace rnnk {
namespace {

template <class VF, class VD>
Kernel cpu_kernel(const char* name, uint32_t features) {
  sweep_float = sweep<VF>;
  sweep_double = sweep<VD>;
  return {name, RNNK_CPU, features, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
}

}  // namespace
}  // namespace rnnk
