// What -fsanitize=thread makes of kernels: a call before each access to memory that may be another thread's. Nothing of the sanitizer's
// library is linked; the names are its, and stay in this library. Host code in the same files makes the calls, too.
#include <atomic>
#include <cstdint>
#include <cstring>

#include "simt/executor.h"
#include "simt/races.h"

namespace {

using rnnk::simt::Does;

// Not while no fiber runs, nor for another thread of the host, which is on another stack.
bool in_kernel() {
  const rnnk::simt::Fiber* own = rnnk::simt::current;
  return own && static_cast<char*>(__builtin_frame_address(0)) - own->stack.low < ptrdiff_t{rnnk::simt::Stack::kSize} &&
         static_cast<char*>(__builtin_frame_address(0)) >= own->stack.low;
}

template <Does does, bool is_volatile, bool is_aligned, int size>
void access(const void* at, const void* place) {
  if (!in_kernel()) return;
  if (is_aligned && reinterpret_cast<uintptr_t>(at) % size != 0) {
    rnnk::simt::report("%s of %d bytes at an address that is not a multiple of it: %p",
                       does == Does::read ? "a load" : "a store", size, at);
  }
  rnnk::simt::accesses(at, size, {does, is_volatile, size}, place);
}
void access_range(const void* at, size_t size, rnnk::simt::How how, const void* place) {
  if (in_kernel() && size > 0) rnnk::simt::accesses(at, size, how, place);
}

}  // namespace

#define HOOK extern "C" __attribute__((visibility("hidden")))
#define PLACE __builtin_return_address(0)
#define ACCESSES(size, natural)                                                                                  \
  HOOK void __tsan_read##size(void* at) { access<Does::read, false, natural, size>(at, PLACE); }                 \
  HOOK void __tsan_write##size(void* at) { access<Does::write, false, natural, size>(at, PLACE); }               \
  HOOK void __tsan_volatile_read##size(void* at) { access<Does::read, true, natural, size>(at, PLACE); }         \
  HOOK void __tsan_volatile_write##size(void* at) { access<Does::write, true, natural, size>(at, PLACE); }       \
  HOOK void __tsan_unaligned_read##size(void* at) { access<Does::read, false, false, size>(at, PLACE); }         \
  HOOK void __tsan_unaligned_write##size(void* at) { access<Does::write, false, false, size>(at, PLACE); }       \
  HOOK void __tsan_unaligned_volatile_read##size(void* at) { access<Does::read, true, false, size>(at, PLACE); } \
  HOOK void __tsan_unaligned_volatile_write##size(void* at) { access<Does::write, true, false, size>(at, PLACE); }
ACCESSES(1, true)
ACCESSES(2, true)
ACCESSES(4, true)
ACCESSES(8, true)
ACCESSES(16, true)

HOOK void __tsan_read_range(void* at, size_t size) { access_range(at, size, rnnk::simt::kReads, PLACE); }
HOOK void __tsan_write_range(void* at, size_t size) { access_range(at, size, rnnk::simt::kWrites, PLACE); }
HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
HOOK void __tsan_vptr_read(void**) {}
HOOK void __tsan_vptr_update(void**, void*) {}

// Clang's names for the functions of the C library.
HOOK void* __tsan_memcpy(void* to, const void* from, size_t size) {
  access_range(from, size, rnnk::simt::kReads, PLACE);
  access_range(to, size, rnnk::simt::kWrites, PLACE);
  return std::memcpy(to, from, size);
}
HOOK void* __tsan_memmove(void* to, const void* from, size_t size) {
  access_range(from, size, rnnk::simt::kReads, PLACE);
  access_range(to, size, rnnk::simt::kWrites, PLACE);
  return std::memmove(to, from, size);
}
HOOK void* __tsan_memset(void* to, int byte, size_t size) {
  access_range(to, size, rnnk::simt::kWrites, PLACE);
  return std::memset(to, byte, size);
}

// -fsanitize=alignment makes this call before the compiler takes an access to pieces: so what must be aligned for the hardware is known.
struct Mismatch {
  const char* file;
  uint32_t line, column;
  const void* type;
  unsigned char log2_alignment, kind;
};
HOOK void __ubsan_handle_type_mismatch_v1(const Mismatch* what, uintptr_t at) {
  if (!in_kernel()) return;
  const char* name = std::strrchr(what->file, '/');
  rnnk::simt::report("an access at an address that is not a multiple of %d: %p, at %s:%u", 1 << what->log2_alignment,
                     reinterpret_cast<const void*>(at), name ? name + 1 : what->file, what->line);
}

// Atomic operations are the host's alone: kernels have those of exchange.h.
#define ATOMIC(bits)                                                                                        \
  using Word##bits = std::atomic<uint##bits##_t>;                                                           \
  HOOK uint##bits##_t __tsan_atomic##bits##_load(const volatile Word##bits* at, int) { return at->load(); } \
  HOOK void __tsan_atomic##bits##_store(volatile Word##bits* at, uint##bits##_t v, int) { at->store(v); }   \
  HOOK uint##bits##_t __tsan_atomic##bits##_exchange(volatile Word##bits* at, uint##bits##_t v, int) {      \
    return at->exchange(v);                                                                                 \
  }                                                                                                         \
  HOOK uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile Word##bits* at, uint##bits##_t v, int) {     \
    return at->fetch_add(v);                                                                                \
  }                                                                                                         \
  HOOK uint##bits##_t __tsan_atomic##bits##_fetch_sub(volatile Word##bits* at, uint##bits##_t v, int) {     \
    return at->fetch_sub(v);                                                                                \
  }
ATOMIC(8)
ATOMIC(32)
ATOMIC(64)
