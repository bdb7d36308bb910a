// Fibers: a stack of its own for every thread of a kernel, and the switch between two of them. No system call, so that a
// switch costs nanoseconds: x86-64 and AArch64 alone.
#pragma once
#include <cstddef>

#include "simt/sanitizer.h"

// Leaves the running stack, whose place is written to *from, for the one that was left at `to`.
extern "C" void rnnk_simt_switch(void** from, void* to);

namespace rnnk {
namespace simt {

// A stack, and below it memory that cannot be touched.
struct Stack {
  static constexpr size_t kGuard = 64 << 10, kSize = kSanitized ? 256 << 10 : 64 << 10;
  char* low;  // of the usable part

  // The place to switch to so that `entry`, which must not return, runs on this stack.
  void* prepared(void (*entry)()) const;
};

// A stack that is free; Failure when memory or the process's mappings run out. Stacks are never unmapped.
Stack take_stack();
void free_stack(Stack);
bool in_stack_guard(const Stack&, const char* address);

}  // namespace simt
}  // namespace rnnk
