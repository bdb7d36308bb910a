// cpu_avx2_int8: without an instruction that sums four products. vpmaddubsw multiplies bytes without sign by bytes with one and adds two
// products in 16 bits, where 255 * 127 twice would saturate. So the operand's sign goes to the weight: |q| * (sign(q) w) is at most
// 127 * 127, and two of them 32,258, below 2^15.
#include "cpu/isa/int8_avx2_vec.h"

#include "cpu/int8_walk.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

struct Dot : Bytes {
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
    return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
  }
};

constexpr WeightUnit kUnit{run_int8<Dot>, 2.0 / 4, 1};

}  // namespace

extern const UnitHost cpu_avx2_host;
extern const Kernel cpu_avx2_int8_kernel;
const Kernel cpu_avx2_int8_kernel = unit_kernel<cpu_avx2_host, kUnit>("cpu_avx2_int8", kAvx2 | kFma, WeightForm::int8);

}  // namespace rnnk
