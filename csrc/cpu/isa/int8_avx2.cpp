// cpu_avx2_int8: without an instruction that sums four products of bytes. vpmaddubsw adds two in 16 bits, where 255 * 127 twice would
// saturate. Both ways round that give the same sums: the first takes fewer instructions for one row, the second for more.
#include "cpu/isa/int8_avx2_vec.h"

#include "cpu/int8_walk.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

// The operand's sign goes to the weight: |q| * (sign(q) w) is at most 127 * 127, and two of them 32,258, below 2^15.
struct Signs : Bytes {
  static constexpr bool offset = false;
  struct Operand {
    __m256i signed_bytes, magnitudes;
  };
  RNNK_HD static Operand broadcast(const uint8_t* a) {
    const __m256i q = _mm256_xor_si256(four(a), _mm256_set1_epi8(-128));  // q + 128 with its upper bit turned is q
    return {q, _mm256_abs_epi8(q)};
  }
  RNNK_HD static VecI mac(Operand x, __m256i w, VecI sum) {
    const __m256i pairs = _mm256_maddubs_epi16(x.magnitudes, _mm256_sign_epi8(w, x.signed_bytes));
    sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    __asm__("" : "+x"(sum.v));  // or GCC adds up the products of several terms first, in memory
    return sum;
  }
};

// Bytes become words: weights when they are loaded, for all rows of a tile, operands when they are made.
struct Words : Bytes {
  static constexpr bool offset = false;
  // Words of terms 0 2 1 3 of each four: weights have 0 and 2, or 1 and 3, in the upper halves of their words after a shift.
  static void widen(const uint8_t* from, int64_t n, int16_t* to) {
    for (int64_t i = 0; i < n; i += 16) {
      const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
      const __m256i q = _mm256_sub_epi16(bytes, _mm256_set1_epi16(kInt8Offset));
      const __m256i ordered = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(q, 0xd8), 0xd8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), ordered);
    }
  }
  RNNK_HD static __m256i broadcast(const int16_t* a) { return four(reinterpret_cast<const uint8_t*>(a)); }
  RNNK_HD static __m256i load(const int8_t* w, int j) {
    const __m256i bytes = Bytes::load(w);
    return _mm256_srai_epi16(j == 0 ? _mm256_slli_epi16(bytes, 8) : bytes, 8);
  }
  RNNK_HD static VecI mac(__m256i x, __m256i w, VecI sum) {
    sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(x, w));
    __asm__("" : "+x"(sum.v));  // as above
    return sum;
  }
};

void run(const UnitProduct& product, int64_t r0, int64_t r1, int64_t p0, int64_t p1) {
  (r1 - r0 > 1 ? run_int8<Words> : run_int8<Signs>)(product, r0, r1, p0, p1);
}

constexpr WeightUnit kUnit{run, 1.3 / 4, 1};

}  // namespace

extern const UnitHost cpu_avx2_host;
extern const Kernel cpu_avx2_int8_kernel;
const Kernel cpu_avx2_int8_kernel = unit_kernel<cpu_avx2_host, kUnit>("cpu_avx2_int8", kAvx2 | kFma, WeightForm::int8);

}  // namespace rnnk
