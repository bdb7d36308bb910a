// What AddressSanitizer must be told about fibers: which stack runs, and that what an abandoned one held is gone.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

namespace rnnk {
namespace simt {
constexpr bool kSanitized = true;
inline void forget(const char* low, size_t size) { __asan_unpoison_memory_region(low, size); }
inline void leaving(void** keep, const char* to_low, size_t size) { __sanitizer_start_switch_fiber(keep, to_low, size); }
inline void arrived(void* kept, const void** from_low, size_t* from_size) {
  __sanitizer_finish_switch_fiber(kept, from_low, from_size);
}
}  // namespace simt
}  // namespace rnnk
#else
namespace rnnk {
namespace simt {
constexpr bool kSanitized = false;
inline void forget(const char*, size_t) {}
inline void leaving(void**, const char*, size_t) {}
inline void arrived(void*, const void**, size_t*) {}
}  // namespace simt
}  // namespace rnnk
#endif
