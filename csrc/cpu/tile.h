// The product micro-kernel and the loop over tiles: the one inner loop of the library.
//
// A panel is `G` vectors of columns side by side, stored [k][G][lanes]. A tile is R rows x P neighbouring panels, all of
// its R*P*G accumulators in registers, k innermost and sequential. So every element of a result is one chain
//   acc = start; for k: acc = fma(a[k], w[k], acc)
// whatever the tile, the number of rows or the thread: the promise "same bits" is kept here.
#pragma once
#include "cpu/io.h"

namespace rnnk {
namespace {

#define RNNK_UNROLL _Pragma("GCC unroll 32")

// How many rows and panels a tile has. 32 registers (AVX-512, NEON): 24 accumulators; 16 (AVX2): 12. With one or two rows
// there must still be about 8 independent chains to hide the latency of the FMA, so the tile grows sideways.
template <class V, int G>
struct Shape {
  static constexpr bool wide = V::registers >= 32;
  static constexpr int panels = G >= 4 ? 1 : G == 3 ? (wide ? 2 : 1) : G == 2 ? (wide ? 2 : 1) : (wide ? 4 : 2);
  static constexpr int rows = (wide ? 24 : 12) / (panels * G);
  static constexpr int flat_rows = wide ? 2 : 1;  // up to this many rows use flat_panels
  static constexpr int flat_panels = larger(panels, (wide ? 9 : 8) / G);
};

template <class V, int R, int N, int P, int G>
RNNK_HD void product(const typename V::T* const (&a)[R], int64_t K, const typename V::T* w, int64_t panel_stride,
                     V (&acc)[R][N]) {
  static_assert(N == P * G);
  for (int64_t k = 0; k < K; ++k, w += G * V::lanes) {
    if constexpr (R < N) {  // hold the smaller side in registers, stream the other
      V x[R];
      RNNK_UNROLL for (int r = 0; r < R; ++r) x[r] = V::set1(a[r][k]);
      RNNK_UNROLL for (int i = 0; i < N; ++i) {
        const V b = V::load(w + (i / G) * panel_stride + (i % G) * V::lanes);
        RNNK_UNROLL for (int r = 0; r < R; ++r) acc[r][i] = fma(x[r], b, acc[r][i]);
      }
    } else {
      V b[N];
      RNNK_UNROLL for (int i = 0; i < N; ++i) b[i] = V::load(w + (i / G) * panel_stride + (i % G) * V::lanes);
      RNNK_UNROLL for (int r = 0; r < R; ++r) {
        const V x = V::set1(a[r][k]);
        RNNK_UNROLL for (int i = 0; i < N; ++i) acc[r][i] = fma(x, b[i], acc[r][i]);
      }
    }
  }
}

// One tile. Fn offers
//   const T* operand(row)            the row of A; K entries are read
//   V start(row, panel, g)           the accumulator's first value
//   void finish(row, panel, const V (&gates)[G])
template <class V, int G, int R, int P, class Fn>
__attribute__((noinline)) void tile(const Fn& fn, int64_t row, int64_t panel, int64_t K, const typename V::T* w,
                                    int64_t panel_stride) {
  const typename V::T* a[R];
  V acc[R][P * G];
  RNNK_UNROLL for (int r = 0; r < R; ++r) {
    a[r] = fn.operand(row + r);
    RNNK_UNROLL for (int i = 0; i < P * G; ++i) acc[r][i] = fn.start(row + r, panel + i / G, i % G);
  }
  product<V, R, P * G, P, G>(a, K, w + panel * panel_stride, panel_stride, acc);
  // The pointwise part runs in a rolled loop, or its code would stand R * P times; the copy is at most 24 vectors of stack.
  V out[R * P][G];
  RNNK_UNROLL for (int r = 0; r < R; ++r) {
    RNNK_UNROLL for (int i = 0; i < P * G; ++i) out[r * P + i / G][i % G] = acc[r][i];
  }
  for (int j = 0; j < R * P; ++j) fn.finish(row + j / P, panel + j % P, out[j]);
}

template <class V, int G, int P, int R, class Fn>
RNNK_HD void tile_of(int64_t rows, const Fn& fn, int64_t row, int64_t panel, int64_t K, const typename V::T* w,
                     int64_t panel_stride) {
  if constexpr (R > 0) {
    if (rows == R) return tile<V, G, R, P>(fn, row, panel, K, w, panel_stride);
    tile_of<V, G, P, R - 1>(rows, fn, row, panel, K, w, panel_stride);
  }
}

// All rows [r0, r1) of panels [panel, panel + P); rows are dealt evenly over the tiles (8 = 4 + 4, not 6 + 2).
template <class V, int G, int P, int R, class Fn>
RNNK_HD void tile_column(const Fn& fn, int64_t r0, int64_t r1, int64_t panel, int64_t K, const typename V::T* w,
                         int64_t panel_stride) {
  const int64_t n = r1 - r0, tiles = ceil_div(n, R), base = n / tiles, extra = n % tiles;
  for (int64_t i = 0, row = r0; i < tiles; ++i) {
    const int64_t rows = base + (i < extra);
    tile_of<V, G, P, R>(rows, fn, row, panel, K, w, panel_stride);
    row += rows;
  }
}

template <class V, int G, int P, int R, class Fn>
RNNK_HD void tile_columns(const Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t K, const typename V::T* w,
                          int64_t panel_stride) {
  for (; p0 + P <= p1; p0 += P) tile_column<V, G, P, R>(fn, r0, r1, p0, K, w, panel_stride);
  if constexpr (P > 1) {  // what is left over, in narrower tiles
    constexpr int Less = P > 4 ? 4 : P > 2 ? 2 : 1;
    tile_columns<V, G, Less, R>(fn, r0, r1, p0, p1, K, w, panel_stride);
  }
}

// result[r0..r1) x [p0..p1) panels, of operands with K entries and weights w.
template <class V, int G, class Fn>
void for_tiles(const Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t K, const typename V::T* w,
               int64_t panel_stride) {
  using S = Shape<V, G>;
  if (r1 <= r0 || p1 <= p0) return;
  if (r1 - r0 <= S::flat_rows) {
    tile_columns<V, G, S::flat_panels, S::flat_rows>(fn, r0, r1, p0, p1, K, w, panel_stride);
  } else {
    tile_columns<V, G, S::panels, S::rows>(fn, r0, r1, p0, p1, K, w, panel_stride);
  }
}

}  // namespace
}  // namespace rnnk
