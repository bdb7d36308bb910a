// cpu_amx: products of bfloat16 in the matrix unit, the pointwise part in AVX-512.
#include "cpu/instantiate.h"
#include "cpu/isa/amx_walk.h"

namespace rnnk {
namespace {

struct Matrix : Rounded<VecF> {
  static constexpr bool matrix = true;
  static constexpr int depth = 32;
  static constexpr int rows = kTileRows, least_rows = kLeastTileRows;
  static double cycles_per_fma() { return 1.0 / 32; }

  template <int G, class Fn>
  struct Product {
    using Sum = float;
    const Fn& fn;
    const char* operand(int64_t row) const { return reinterpret_cast<const char*>(fn.operand(row)); }
    RNNK_HD void prepare(int64_t row, int64_t panel) const { fn.prepare(row, panel); }
    RNNK_HD void finish(int64_t row, int rows, int64_t panel, int panels, const float* sums) const {
      const Start<Matrix> start = fn.start();
      for (int i = 0; i < rows * panels; ++i) {
        VecF gates[G];
        RNNK_UNROLL for (int g = 0; g < G; ++g) {
          gates[g] = start.of(panel + i % panels, g) + VecF::load(sums + (i * G + g) * 16);
        }
        fn.finish(row + i / panels, panel + i % panels, gates);
      }
    }
  };

  // The arguments of for_tiles (tile.h).
  template <int G, class Fn>
  static void walk(const Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t K, const uint16_t* w,
                   int64_t panel_stride) {
    matrix_walk<false, G>(Product<G, Fn>{fn}, r0, r1, p0, p1, ceil_div(K, depth), reinterpret_cast<const char*>(w),
                          panel_stride * 2);
  }
};

}  // namespace

extern const Kernel cpu_amx_kernel;
const Kernel cpu_amx_kernel =
    cpu_kernel<Arithmetics<void, void, Matrix>>("cpu_amx", kAvx512f | kAvx512bw | kAvx512vl | kAvx512dq | kFma | kAmxBf16);

}  // namespace rnnk
