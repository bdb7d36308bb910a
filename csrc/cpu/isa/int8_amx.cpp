// cpu_amx_int8: 64 bytes of 16 rows by 16 columns in one instruction of the matrix unit. Few rows leave most of it idle, and the vector
// units are faster.
#include "cpu/isa/amx_walk.h"
#include "cpu/isa/int8_avx512_dot.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

constexpr int kFewRows = 4;  // up to so many, the vector units multiply; the sums are the same

template <int G>
struct Rows {
  using Sum = int32_t;
  const Int8Block& block;
  const char* operand(int64_t row) const {
    return reinterpret_cast<const char*>(block.bytes + (row - block.first) * block.leading);
  }
  void prepare(int64_t, int64_t) const {}
  void finish(int64_t row, int rows, int64_t panel, int panels, int32_t* sums) const {
    constexpr int W = 16;
    alignas(64) float to[kTileRows * (G % 2 ? 2 : 1) * G * W];
    for (int p = 0; p < panels; ++p) {
      const int32_t* const corrections =
          reinterpret_cast<const int32_t*>(int8_scales<VecF, G>(block.product, panel + p)) + G * W;
      for (int r = 0; r < rows; ++r) {
        int32_t* const at = sums + (r * panels + p) * G * W;
        RNNK_UNROLL for (int g = 0; g < G; ++g)(VecI::load(at + g * W) + VecI::load(corrections + g * W)).store(at + g * W);
      }
    }
    int8_results<Dot, G>(block, row, rows, panel, panels, sums, to);
    block.product.finish(block.product.driver, row, rows, panel, panels, to);
  }
};

template <int G>
void run_matrix(const UnitProduct& product, int64_t r0, int64_t r1, int64_t p0, int64_t p1) {
  int8_blocks<Dot>(product, r0, r1, [&](const Int8Block& block, int64_t first, int64_t last) {
    matrix_walk<true, G>(Rows<G>{block}, first, last, p0, p1, ceil_div(product.K, kInt8Depth),
                         static_cast<const char*>(product.weights), product.panel_stride);
  });
}

void run(const UnitProduct& product, int64_t r0, int64_t r1, int64_t p0, int64_t p1) {
  if (r1 - r0 <= kFewRows) return run_int8<Dot>(product, r0, r1, p0, p1);
  with_gates(product.gates, [&](auto gates) { run_matrix<gates>(product, r0, r1, p0, p1); });
}

constexpr WeightUnit kUnit{run, 1.0 / 64, 1, kTileRows, kFewRows};

}  // namespace

extern const UnitHost cpu_avx512_host;
extern const Kernel cpu_amx_int8_kernel;
const Kernel cpu_amx_int8_kernel = unit_kernel<cpu_avx512_host, kUnit>(
    "cpu_amx_int8", kAvx512f | kAvx512bw | kAvx512vl | kAvx512dq | kAvx512vnni | kFma | kAmxInt8, WeightForm::int8);

}  // namespace rnnk
