// Where what lies in a block's shared memory; on the host it only measures.
#pragma once
#include "cuda/layout.h"

namespace rnnk {
namespace gpu {

struct SharedSpace {
  char* base;
  int64_t used = 0;
  RNNK_HD explicit SharedSpace(char* base) : base(base) {}
  template <class E>
  RNNK_HD E* take(int64_t count) {
    E* const here = reinterpret_cast<E*>(base + used);
    used += round_up(count * static_cast<int64_t>(sizeof(E)), 128);
    return here;
  }
};

}  // namespace gpu
}  // namespace rnnk
