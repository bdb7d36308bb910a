// sweep [STRIDE_FLOAT STRIDE_DOUBLE]: one in STRIDE of 2^32 numbers, in the floating-point mode that kernels run in.
#include <cstdint>
#include <cstdlib>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rnnk {
void (*sweep_float)(int64_t stride);
void (*sweep_double)(int64_t stride);
}  // namespace rnnk

int main(int argc, char** argv) {
#if defined(__x86_64__)
  _mm_setcsr(0x1f80 | 0x8040);  // as core/team.cpp: round to nearest, subnormals are zero
#elif defined(__aarch64__)
  __asm__ __volatile__("msr fpcr, %0" : : "r"(uint64_t{1} << 24));
#endif
  rnnk::sweep_float(argc > 1 ? std::atoll(argv[1]) : 997);
  rnnk::sweep_double(argc > 2 ? std::atoll(argv[2]) : 4001);
}
