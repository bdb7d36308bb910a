// A product of floats by weights in bfloat16 (unit.h): the walk over tiles (tile.h) with the arithmetic Widened. Its chains are those of
// floats, so the sums have the bits of a product by weights that were rounded and stored as floats.
#pragma once
#include "cpu/tile.h"
#include "cpu/unit.h"

namespace rnnk {
namespace {

// What run_tile (tile.h) does, for a product of a unit.
template <class A, int G>
void run_bf16_tile(const void* self, typename MicroKernels<A, G>::Function kernel, int64_t row, int rows, int64_t panel,
                   int panels, int64_t k, bool last, Tile<A>& tile) {
  const UnitProduct& product = *static_cast<const UnitProduct*>(self);
  const float* a[MicroKernels<A, G>::kRows];
  for (int r = 0; r < rows; ++r) a[r] = product.operand(product.driver, row + r) + k;
  tile.a = a;
  kernel(tile);
  if (last) product.finish(product.driver, row, rows, panel, panels, tile.sums);
}

template <class V>
void run_bf16(const UnitProduct& product, int64_t r0, int64_t r1, int64_t p0, int64_t p1) {
  using A = Widened<V>;
  with_gates(product.gates, [&](auto gates) {
    const TiledProduct<A, gates> tiled{
        &product, nullptr, run_bf16_tile<A, gates>, {product.start, product.start_stride}, kChain};
    walk_tiles<A, gates>(tiled, r0, r1, p0, p1, product.K, static_cast<const uint16_t*>(product.weights),
                         product.panel_stride / 2);
  });
}

template <class V>
constexpr WeightUnit bf16_unit{run_bf16<V>, Widened<V>::cycles_per_fma(), 2};

}  // namespace
}  // namespace rnnk
