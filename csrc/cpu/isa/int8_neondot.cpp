// cpu_neondot_int8: 16 bytes times 16 bytes, four of them to a sum, in one instruction.
#include "cpu/isa/int8_neon_vec.h"

#include "cpu/int8_walk.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

// Compilers disagree about the flag that gives them the intrinsic, so the assembler alone is told: clang's at each instruction, GNU's
// once for the file.
#if !defined(__clang__)
__asm__(".arch armv8.2-a+dotprod");
#endif

struct Dot : Bytes {
  RNNK_HD static VecI mac(int8x16_t x, int8x16_t w, VecI sum) {
    __asm__(".arch_extension dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(sum.v) : "w"(x), "w"(w));
    return sum;
  }
};

constexpr WeightUnit kUnit{run_int8<Dot>, 0.5 / 4, 1};

}  // namespace

extern const UnitHost cpu_neon_host;
extern const Kernel cpu_neondot_int8_kernel;
const Kernel cpu_neondot_int8_kernel =
    unit_kernel<cpu_neon_host, kUnit>("cpu_neondot_int8", kNeon | kDotProduct, WeightForm::int8);

}  // namespace rnnk
