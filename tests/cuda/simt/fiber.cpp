// The switch keeps what a function call must keep: the callee's registers and the stack pointer. The rounding modes are the
// thread's, shared by all fibers.
#include "simt/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <vector>

#include "core/problem.h"

#if defined(__x86_64__)
asm(R"(
.pushsection .text
.globl rnnk_simt_switch
.hidden rnnk_simt_switch
.type rnnk_simt_switch, @function
rnnk_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size rnnk_simt_switch, .-rnnk_simt_switch
.popsection
)");
#elif defined(__aarch64__)
asm(R"(
.pushsection .text
.globl rnnk_simt_switch
.hidden rnnk_simt_switch
.type rnnk_simt_switch, @function
rnnk_simt_switch:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
.size rnnk_simt_switch, .-rnnk_simt_switch
.popsection
)");
#else
#error "the executor's fibers are written for x86-64 and AArch64"
#endif

namespace rnnk {
namespace simt {

namespace {
std::vector<Stack> free_stacks;  // the last one freed is the first one taken: it is in the cache
}

void* Stack::prepared(void (*entry)()) const {
  forget(low, kSize);
  auto* top = reinterpret_cast<uint64_t*>(low + kSize);
#if defined(__x86_64__)
  // Six registers, the address that the switch returns to, and the word where a caller's return address would be.
  constexpr int words = 8, link = 6;
#else
  constexpr int words = 20, link = 1;
#endif
  for (int i = 1; i <= words; ++i) top[-i] = 0;
  top[-words + link] = reinterpret_cast<uint64_t>(entry);
  return top - words;
}

Stack take_stack() {
  if (free_stacks.empty()) {
    constexpr int many = 32;  // at a time
    constexpr size_t each = Stack::kGuard + Stack::kSize;
    void* at = mmap(nullptr, many * each, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) fail(RNNK_OUT_OF_MEMORY, "no memory for the stacks of %d more threads", many);
    for (int i = 0; i < many; ++i) {
      char* guard = static_cast<char*>(at) + i * each;
      if (mprotect(guard, Stack::kGuard, PROT_NONE) != 0)
        fail(RNNK_OUT_OF_MEMORY, "no mapping for the stack of one more thread: too many run together");
      free_stacks.push_back({guard + Stack::kGuard});
    }
  }
  const Stack stack = free_stacks.back();
  free_stacks.pop_back();
  return stack;
}

void free_stack(Stack stack) { free_stacks.push_back(stack); }

bool in_stack_guard(const Stack& stack, const char* address) {
  return stack.low && address < stack.low && address >= stack.low - Stack::kGuard;
}

}  // namespace simt
}  // namespace rnnk
