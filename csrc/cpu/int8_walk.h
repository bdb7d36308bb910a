// A product of bytes as the walk over tiles (tile.h) does it: rows are made into bytes a stack's worth at a time, tiles sum integers, and
// the sums become floats before the driver's pointwise part meets them.
#pragma once
#include <type_traits>

#include "cpu/int8_rows.h"
#include "cpu/tile.h"
#include "cpu/unit.h"

namespace rnnk {
namespace {

// The arithmetic of tile.h. D offers V (int32) and F (float), vectors of as many lanes, Bytes broadcast(const uint8_t*),
// load(const int8_t*), mac(x, w, sum) of four terms, to_float(V), lower_bytes(F, uint8_t*), which stores the lower byte of each lane;
// offset: whether it multiplies operands as q + 128, not as q. Or it multiplies words: then widen(bytes, n, words) makes operands of
// them, and broadcast(const int16_t*), load(weights, j) and mac() are of two terms, those from the jth of four on.
template <class D>
struct Int8 : D {
  using V = typename D::V;
  using T = int32_t;
  static constexpr bool words = requires { D::widen; };
  using Operand = std::conditional_t<words, int16_t, uint8_t>;
  using Weight = int8_t;
  static constexpr int pair = 4, depth = kInt8Depth, step = words ? 2 : 4;
  static constexpr bool matrix = false, plain = false;
  RNNK_HD static auto weights(const int8_t* w, int j) {
    if constexpr (words) return D::load(w, j);
    else return D::load(w);
  }
};

// Rows [first, first + count) of a product as operands.
struct Int8Block {
  const UnitProduct& product;
  int64_t first, leading;  // leading: in bytes
  const uint8_t* bytes;
  const float* scales;
};

template <class F, int G>
RNNK_HD const float* int8_scales(const UnitProduct& product, int64_t panel) {
  const char* end = static_cast<const char*>(product.weights) + (panel + 1) * product.panel_stride;
  return reinterpret_cast<const float*>(end - 8 * G * F::lanes);
}

// sums [rows][panels][G][W] of int32 become floats in place of `to`, with scales and start.
template <class D, int G>
RNNK_HD void int8_results(const Int8Block& block, int64_t row, int rows, int64_t panel, int panels, const int32_t* sums,
                          float* to) {
  using F = typename D::F;
  constexpr int W = F::lanes;
  const UnitProduct& product = block.product;
  for (int p = 0; p < panels; ++p) {
    const float* const scales = int8_scales<F, G>(product, panel + p);
    const float* const start = product.start ? product.start + (panel + p) * product.start_stride : nullptr;
    for (int r = 0; r < rows; ++r) {
      const F scale = F::set1(block.scales[row + r - block.first]);
      const int64_t at = (r * panels + p) * (G * W);
      RNNK_UNROLL for (int g = 0; g < G; ++g) {
        const F factor = F::load(scales + g * W) * scale;
        fma(D::to_float(D::V::load(sums + at + g * W)), factor, start ? F::load(start + g * W) : F::set1(0))
            .store(to + at + g * W);
      }
    }
  }
}

// run_tile (tile.h) of a block.
template <class D, int G>
void run_int8_tile(const void* self, typename MicroKernels<Int8<D>, G>::Function kernel, int64_t row, int rows,
                   int64_t panel, int panels, int64_t k, bool last, Tile<Int8<D>>& tile) {
  using K = MicroKernels<Int8<D>, G>;
  const Int8Block& block = *static_cast<const Int8Block*>(self);
  using Operand = typename Int8<D>::Operand;
  const Operand* a[K::kRows];
  for (int r = 0; r < rows; ++r) {
    a[r] = reinterpret_cast<const Operand*>(block.bytes + (row + r - block.first) * block.leading) + k;
  }
  tile.a = a;
  kernel(tile);
  if (!last) return;
  using S = typename K::S;
  alignas(64) float to[larger(K::kRows * S::panels, S::flat_rows * S::flat_panels(1)) * G * D::F::lanes];
  int8_results<D, G>(block, row, rows, panel, panels, tile.sums, to);
  block.product.finish(block.product.driver, row, rows, panel, panels, to);
}

// fn(block, first row, last row) of rows [r0, r1) as bytes.
template <class D, class Fn>
void int8_blocks(const UnitProduct& product, int64_t r0, int64_t r1, const Fn& fn) {
  constexpr int64_t kRows = 240, size = sizeof(typename Int8<D>::Operand), room = size * kInt8RowBytes;
  const int64_t end = round_up(product.K, kInt8Depth), leading = (end + 64) * size;  // rows apart from a power of two
  const int64_t most = larger<int64_t>(1, smaller(kRows, room / leading));
  alignas(64) uint8_t bytes[room + 256];
  float scales[kRows];
  while (r0 < r1) {
    const int64_t n = smaller(most, r1 - r0);
    for (int64_t i = 0; i < n; ++i) {
      uint8_t* const row = bytes + i * leading;
      uint8_t* const made = row + (size - 1) * end;  // words are made of bytes from the first on, so that none is lost
      scales[i] =
          Int8Rows<typename D::F>::quantise(product.operand(product.driver, r0 + i), product.K, end, made, D::lower_bytes);
      if constexpr (Int8<D>::words) D::widen(made, end, reinterpret_cast<int16_t*>(row));
    }
    fn(Int8Block{product, r0, leading, bytes, scales}, r0, r0 + n);
    r0 += n;
  }
}

template <class D, int G>
void run_int8_product(const UnitProduct& product, int64_t r0, int64_t r1, int64_t p0, int64_t p1) {
  using A = Int8<D>;
  const auto* const w = static_cast<const int8_t*>(product.weights);
  const int64_t elements = product.panel_stride / 4;
  const int32_t* const start = reinterpret_cast<const int32_t*>(int8_scales<typename D::F, G>(product, 0)) + G * D::F::lanes;
  int8_blocks<D>(product, r0, r1, [&](const Int8Block& block, int64_t first, int64_t last) {
    const Start<A> corrections = D::offset ? Start<A>{start, elements} : Start<A>{};
    const TiledProduct<A, G> tiled{&block, nullptr, run_int8_tile<D, G>, corrections, round_up(product.K, kChain)};
    walk_tiles<A, G>(tiled, first, last, p0, p1, round_up(product.K, A::pair), w, product.panel_stride);
  });
}

template <class D>
void run_int8(const UnitProduct& product, int64_t r0, int64_t r1, int64_t p0, int64_t p1) {
  with_gates(product.gates, [&](auto gates) { run_int8_product<D, gates>(product, r0, r1, p0, p1); });
}

}  // namespace
}  // namespace rnnk
