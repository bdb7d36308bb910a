// cpu_neon_bf16_weights: bfloat16 is widened on its way into an FMA.
#include "cpu/isa/neon_vec.h"

#include "cpu/bf16_walk.h"
#include "cpu/unit_kernel.h"

namespace rnnk {

extern const UnitHost cpu_neon_host;
extern const Kernel cpu_neon_bf16_weights_kernel;
const Kernel cpu_neon_bf16_weights_kernel =
    unit_kernel<cpu_neon_host, bf16_unit<VecF>>("cpu_neon_bf16_weights", kNeon, WeightForm::bf16);

}  // namespace rnnk
