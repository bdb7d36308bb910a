// cpu_scalar_bf16_weights: bfloat16 is widened on its way into an FMA.
#include "cpu/isa/scalar_vec.h"

#include "cpu/bf16_walk.h"
#include "cpu/unit_kernel.h"

namespace rnnk {

extern const UnitHost cpu_scalar_host;
extern const Kernel cpu_scalar_bf16_weights_kernel;
const Kernel cpu_scalar_bf16_weights_kernel =
    unit_kernel<cpu_scalar_host, bf16_unit<ScalarF>>("cpu_scalar_bf16_weights", 0, WeightForm::bf16);

}  // namespace rnnk
