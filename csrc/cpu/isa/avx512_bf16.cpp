// cpu_avx512_bf16: pairs of bfloat16 multiplied and added in float by one instruction.
#include "cpu/isa/avx512_vec.h"

#include "cpu/instantiate.h"

namespace rnnk {
namespace {

struct Dot : Rounded<VecF> {
  static constexpr int depth = 2, step = 2;
  // Cycles of one term. Zen 4 and 5 start two a cycle; the Intel cores measured (bench/NOTES.md) one every second cycle.
  static double cycles_per_fma() { return cpu_features() & kAmd ? 0.25 : 1; }

  struct Pairs {
    __m512bh v;
  };
  RNNK_HD static Pairs broadcast(const uint16_t* a) {
    int pair;
    __builtin_memcpy(&pair, a, sizeof pair);
    return {(__m512bh)_mm512_set1_epi32(pair)};
  }
  RNNK_HD static Pairs weights(const uint16_t* w, int) { return {(__m512bh)_mm512_loadu_si512(w)}; }
  RNNK_HD static VecF mac(Pairs x, Pairs w, VecF sum) { return {_mm512_dpbf16_ps(sum.v, x.v, w.v)}; }
};

}  // namespace

extern const Kernel cpu_avx512_bf16_kernel;
const Kernel cpu_avx512_bf16_kernel = cpu_kernel<Arithmetics<void, void, Dot>>(
    "cpu_avx512_bf16", kAvx512f | kAvx512bw | kAvx512vl | kAvx512dq | kAvx512bf16 | kFma);

}  // namespace rnnk
