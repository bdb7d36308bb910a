// cpu_avx512_int8: products of bytes by VNNI.
#include "cpu/int8_kernel.h"
#include "cpu/isa/int8_avx512_dot.h"

namespace rnnk {
namespace {

constexpr Int8Unit kUnit{run_int8<Dot>, 0.5 / 4, 0, 0};

}  // namespace

extern const Int8Host cpu_avx512_host;
extern const Kernel cpu_avx512_int8_kernel;
const Kernel cpu_avx512_int8_kernel = int8_kernel<cpu_avx512_host, kUnit>(
    "cpu_avx512_int8", kAvx512f | kAvx512bw | kAvx512vl | kAvx512dq | kAvx512vnni | kFma);

}  // namespace rnnk
