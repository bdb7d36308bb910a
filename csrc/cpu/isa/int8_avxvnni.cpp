// cpu_avxvnni_int8: 32 bytes times 32 bytes, four of them to a sum, in one instruction.
#include "cpu/isa/int8_avx2_vec.h"

#include "cpu/int8_walk.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

struct Dot : Bytes {
  static constexpr bool offset = true;
  RNNK_HD static __m256i broadcast(const uint8_t* a) { return four(a); }
  RNNK_HD static VecI mac(__m256i x, __m256i w, VecI sum) { return {_mm256_dpbusd_avx_epi32(sum.v, x, w)}; }
};

constexpr WeightUnit kUnit{run_int8<Dot>, 0.5 / 4, 1};

}  // namespace

extern const UnitHost cpu_avx2_host;
extern const Kernel cpu_avxvnni_int8_kernel;
const Kernel cpu_avxvnni_int8_kernel =
    unit_kernel<cpu_avx2_host, kUnit>("cpu_avxvnni_int8", kAvx2 | kFma | kAvxVnni, WeightForm::int8);

}  // namespace rnnk
