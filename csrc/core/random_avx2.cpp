#include "core/random_bits.h"

namespace rnnk {
void random_bits_avx2(const RandomAt& at, int64_t n, uint32_t* bits) { random_bits_of<8>(at, n, bits); }
}  // namespace rnnk
