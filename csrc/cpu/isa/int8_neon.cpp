// cpu_neon_int8: the base architecture multiplies bytes to 16 bits, and adds neighbours twice.
#include "cpu/isa/int8_neon_vec.h"

#include "cpu/int8_walk.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

struct Dot : Bytes {
  RNNK_HD static VecI mac(int8x16_t x, int8x16_t w, VecI sum) {
    const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(w)), high = vmull_high_s8(x, w);
    sum.v = vaddq_s32(sum.v, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
    __asm__("" : "+w"(sum.v));  // or GCC adds up the products of several terms first, in memory
    return sum;
  }
};

constexpr WeightUnit kUnit{run_int8<Dot>, 3.0 / 4, 1};

}  // namespace

extern const UnitHost cpu_neon_host;
extern const Kernel cpu_neon_int8_kernel;
const Kernel cpu_neon_int8_kernel = unit_kernel<cpu_neon_host, kUnit>("cpu_neon_int8", kNeon, WeightForm::int8);

}  // namespace rnnk
