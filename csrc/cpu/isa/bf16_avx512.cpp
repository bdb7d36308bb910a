// cpu_avx512_bf16_weights: bfloat16 is widened on its way into an FMA.
#include "cpu/isa/avx512_vec.h"

#include "cpu/bf16_walk.h"
#include "cpu/unit_kernel.h"

namespace rnnk {

extern const UnitHost cpu_avx512_host;
extern const Kernel cpu_avx512_bf16_weights_kernel;
const Kernel cpu_avx512_bf16_weights_kernel = unit_kernel<cpu_avx512_host, bf16_unit<VecF>>(
    "cpu_avx512_bf16_weights", kAvx512f | kAvx512bw | kAvx512vl | kAvx512dq | kFma, WeightForm::bf16);

}  // namespace rnnk
