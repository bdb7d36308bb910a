// The product micro-kernel and the loop over tiles: the one inner loop of the library.
//
// A panel is `G` vectors of columns side by side, stored [k][G][lanes] (with pairs: [k / 2][G][lanes][2]). A tile is R rows x P neighbouring panels, all of
// its R*P*G accumulators in registers, k innermost and sequential. So every element of a result is one chain
//   acc = start; for k: acc = fma(a[k], w[k], acc)
// whatever the tile, the number of rows or the thread: the promise "same bits" is kept here.
#pragma once
#include "core/kernel.h"
#include "cpu/arithmetic.h"

namespace rnnk {
namespace {

// How many rows and panels a tile has. 32 registers (AVX-512, NEON): 24 accumulators; 16 (AVX2): 12. With one or two rows
// there must still be about 8 independent chains to hide the latency of the FMA, so the tile grows sideways.
template <class V>
constexpr int tile_panels(int gates) {
  return gates >= 4 ? 1 : gates >= 2 ? (V::registers >= 32 ? 2 : 1) : (V::registers >= 32 ? 4 : 2);
}
template <class V>
constexpr int tile_rows(int gates) {
  return (V::registers >= 32 ? 24 : 12) / (tile_panels<V>(gates) * gates);
}
template <class V, int G>
struct Shape {
  static constexpr bool wide = V::registers >= 32;
  static constexpr int panels = tile_panels<V>(G), rows = tile_rows<V>(G);
  static constexpr int flat_rows = wide ? 2 : 1;  // up to this many rows use flat_panels
  static constexpr int flat_panels = larger(panels, (wide ? 9 : 8) / G);
};

// What bounds a walk over weights that do not stay in the second-level cache: its first reading of each panel, which stalls a
// tile for several times its own duration. So while the tiles of a column of panels compute, they fetch the column after it.
//
// Ahead is one tile's share: `bytes` with every kTerms terms, in segments (one per panel) of `segment` bytes, `stride` apart.
struct Ahead {
  const char *from = nullptr, *end = nullptr;  // end: of the segment
  int64_t bytes = 0, segment = 0, stride = 0;

  RNNK_HD void fetch() {
    for (const char* stop = from + bytes; from < stop; from += 64) __builtin_prefetch(from, 0, 2);
    if (from >= end) from = end + (stride - segment), end += stride;
  }
  // What `times` calls of fetch() do to the position.
  RNNK_HD void skip(int64_t times) {
    for (; bytes && times > 0;) {
      const int64_t here = smaller(times, ceil_div(end - from, bytes));
      from += here * bytes, times -= here;
      if (from >= end) from = end + (stride - segment), end += stride;
    }
  }
};
constexpr int kTerms = 4;  // of the chains, unrolled: counters and pointers would take the FMA units' issue slots

static_assert(kTerms % 2 == 0, "whole pairs");

// Terms [k, k + A::step), the jth of their pair, whose weights stand at w.
template <class A, int R, int N, int P, int G>
RNNK_HD void product_term(const typename A::Operand* const (&a)[R], int64_t k, int j, const typename A::Weight* w,
                          int64_t panel_stride, typename A::V (&acc)[R][N]) {
  static_assert(N == P * G);
  constexpr int64_t width = A::V::lanes * A::pair;
  const auto weights = [&](int i) { return A::weights(w + (i / G) * panel_stride + (i % G) * width, j); };
  if constexpr (R < N) {  // hold the smaller side in registers, stream the other
    decltype(A::broadcast(a[0])) x[R];
    RNNK_UNROLL for (int r = 0; r < R; ++r) x[r] = A::broadcast(a[r] + k);
    RNNK_UNROLL for (int i = 0; i < N; ++i) {
      const auto b = weights(i);
      RNNK_UNROLL for (int r = 0; r < R; ++r) acc[r][i] = A::mac(x[r], b, acc[r][i]);
    }
  } else {
    decltype(A::weights(w, 0)) b[N];
    RNNK_UNROLL for (int i = 0; i < N; ++i) b[i] = weights(i);
    RNNK_UNROLL for (int r = 0; r < R; ++r) {
      const auto x = A::broadcast(a[r] + k);
      RNNK_UNROLL for (int i = 0; i < N; ++i) acc[r][i] = A::mac(x, b[i], acc[r][i]);
    }
  }
}

template <class A, int R, int N, int P, int G>
RNNK_HD void product(const typename A::Operand* const (&a)[R], int64_t K, const typename A::Weight* w, int64_t panel_stride,
                     Ahead next, typename A::V (&acc)[R][N]) {
  constexpr int64_t width = G * A::V::lanes;  // of one term
  const auto term = [&](int64_t k, int j) {
    const int j_of_pair = j % A::pair;
    product_term<A, R, N, P, G>(a, k + j, j_of_pair, w + (j - j_of_pair) * width, panel_stride, acc);
  };
  int64_t k = 0;
  for (; k + kTerms <= K; k += kTerms, w += kTerms * width) {
    RNNK_UNROLL for (int j = 0; j < kTerms; j += A::step) term(k, j);
    next.fetch();
  }
  for (int j = 0; k + j < K; j += A::step) term(k, j);
}

// Into the second-level cache: the lines that hold `count` elements.
template <class T>
RNNK_HD void fetch(const T* from, int64_t count) {
  const char* line = reinterpret_cast<const char*>(from);
  for (const char* end = line + count * sizeof(T); line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

// Terms [k, k + count) of a product; where there are more before or after, the sums wait in `partial` meanwhile.
template <class A>
struct Terms {
  int64_t k, count;
  bool first, last;
  typename A::T* partial;  // [row][vector][lanes] of this column of panels
};

// One tile. Fn offers
//   const Operand* operand(row)      the row of the left side; K entries are read
//   void prepare(row, panel)         fetches what finish() will meet, if that may be far away
//   V start(row, panel, g)           the accumulator's first value
//   void finish(row, panel, const V (&gates)[G])
template <class A, int G, int R, int P, class Fn>
__attribute__((noinline)) void tile(const Fn& fn, int64_t row, int64_t panel, const Terms<A>& terms,
                                    const typename A::Weight* w, int64_t panel_stride, const Ahead& next) {
  using V = typename A::V;
  constexpr int N = P * G;
  const typename A::Operand* a[R];
  V acc[R][N];
  if (terms.last) {
    for (int j = 0; j < R * P; ++j) fn.prepare(row + j / P, panel + j % P);
  }
  RNNK_UNROLL for (int r = 0; r < R; ++r) {
    a[r] = fn.operand(row + r) + terms.k;
    RNNK_UNROLL for (int i = 0; i < N; ++i) {
      acc[r][i] = terms.first ? fn.start(row + r, panel + i / G, i % G) : V::load(terms.partial + (r * N + i) * V::lanes);
    }
  }
  product<A, R, N, P, G>(a, terms.count, w + panel * panel_stride + terms.k * (G * V::lanes), panel_stride, next, acc);
  if (!terms.last) {
    RNNK_UNROLL for (int r = 0; r < R; ++r) {
      RNNK_UNROLL for (int i = 0; i < N; ++i) acc[r][i].store(terms.partial + (r * N + i) * V::lanes);
    }
    return;
  }
  // The pointwise part runs in a rolled loop, or its code would stand R * P times; the copy is at most 24 vectors of stack.
  V out[R * P][G];
  RNNK_UNROLL for (int r = 0; r < R; ++r) { RNNK_UNROLL for (int i = 0; i < N; ++i) out[r * P + i / G][i % G] = acc[r][i]; }
  for (int j = 0; j < R * P; ++j) fn.finish(row + j / P, panel + j % P, out[j]);
}

template <class A, int G, int P, int R, class Fn>
RNNK_HD void tile_of(int64_t rows, const Fn& fn, int64_t row, int64_t panel, const Terms<A>& terms,
                     const typename A::Weight* w, int64_t panel_stride, const Ahead& next) {
  if constexpr (R > 0) {
    if (rows == R) return tile<A, G, R, P>(fn, row, panel, terms, w, panel_stride, next);
    tile_of<A, G, P, R - 1>(rows, fn, row, panel, terms, w, panel_stride, next);
  }
}

// How a product is cut into passes. Nothing here touches the bits: the chains are only interrupted.
template <class A>
struct Walk {
  int64_t K;
  const typename A::Weight* w;
  int64_t panel_stride;
  int64_t first;  // panel of the walk, or -1: nothing is fetched ahead

  static constexpr int64_t kRows = 96;               // whose partial sums fit the stack
  static constexpr int64_t kBlockBytes = 256 << 10;  // of weights: this column's and the next one's stay in a cache of 1 MiB
  // Terms per pass, the same number in each.
  int64_t block(int vectors) const {
    const int64_t most = kBlockBytes / (vectors * int64_t{A::V::lanes * sizeof(typename A::Weight)});
    return K <= most ? larger<int64_t>(K, 1) : round_up(ceil_div(K, ceil_div(K, most)), kTerms);
  }
};

// Rows [r0, r1) of panels [panel, panel + P); rows are dealt evenly over the tiles (8 = 4 + 4, not 6 + 2).
template <class A, int G, int P, int R, class Fn>
RNNK_HD void tile_column(const Fn& fn, int64_t r0, int64_t r1, int64_t panel, int64_t next_panel, const Walk<A>& walk) {
  constexpr int64_t width = G * A::V::lanes, term_bytes = width * sizeof(typename A::Weight);
  const int64_t block = walk.block(P * G), n = r1 - r0, tiles = ceil_div(n, R), base = n / tiles, extra = n % tiles;
  alignas(64) typename A::T partial[(R > 2 ? Walk<A>::kRows : R) * P * width];
  for (int64_t k = 0; k == 0 || k < walk.K; k += block) {
    Terms<A> terms{k, smaller(block, walk.K - k), k == 0, k + block >= walk.K, partial};
    Ahead next;
    if (walk.first >= 0 && tiles > 1 && walk.K > 0) {
      const int64_t then = terms.last ? 0 : k + block;
      next.segment = smaller(block, walk.K - then) * term_bytes;
      next.stride = walk.panel_stride * sizeof(typename A::Weight);
      next.bytes = round_up(ceil_div(P * kTerms * term_bytes, tiles), 64);
      next.from =
          reinterpret_cast<const char*>(walk.w + (terms.last ? next_panel : panel) * walk.panel_stride + then * width);
      next.end = next.from + next.segment;
    }
    for (int64_t i = 0, row = r0; i < tiles; ++i) {
      const int64_t rows = base + (i < extra);
      tile_of<A, G, P, R>(rows, fn, row, panel, terms, walk.w, walk.panel_stride, next);
      row += rows;
      terms.partial += rows * P * width;
      next.skip(terms.count / kTerms);
    }
  }
}

template <class A, int G, int P, int R, class Fn>
RNNK_HD void tile_columns(const Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, const Walk<A>& walk) {
  for (; p0 + P <= p1; p0 += P) {
    const int64_t next = p0 + P < p1 ? p0 + P : walk.first;  // round again: the next step begins there
    tile_column<A, G, P, R>(fn, r0, r1, p0, next, walk);
  }
  if constexpr (P > 1) {  // what is left over, in narrower tiles
    constexpr int Less = P > 4 ? 4 : P > 2 ? 2 : 1;
    tile_columns<A, G, Less, R>(fn, r0, r1, p0, p1, walk);
  }
}

// A tile functor that calls its parts through pointers: the tiles, which are most of a kernel's code, are then compiled once
// for all cells with G gates, and a cell adds its pointwise part alone. That costs 1 to 3 % (3 at batch 1), and with the
// matrix unit, between whose instructions finish() runs, 6 to 13 %: cells without options, and that unit, have their own.
template <class A, int G>
struct Visit {
  using V = typename A::V;
  const typename A::Operand* from;  // row 0 of the operands
  int64_t ld_from;
  const typename A::T* bias;  // [panel][ld_bias]; null: zero
  int64_t ld_bias;
  const void* point;
  void (*prepare_at)(const void* point, int64_t row, int64_t panel);
  void (*finish_at)(const void* point, int64_t row, int64_t panel, const V (&sums)[G]);

  RNNK_HD const typename A::Operand* operand(int64_t row) const { return from + row * ld_from; }
  RNNK_HD V start(int64_t, int64_t panel, int g) const {
    return bias ? V::load(bias + panel * ld_bias + g * V::lanes) : V::set1(0);
  }
  RNNK_HD void prepare(int64_t row, int64_t panel) const { prepare_at(point, row, panel); }
  RNNK_HD void finish(int64_t row, int64_t panel, const V (&sums)[G]) const { finish_at(point, row, panel, sums); }
};
template <class A, int G, class Point>
Visit<A, G> visit(const Point& point, const typename A::Operand* from, int64_t ld_from, const typename A::T* bias = nullptr,
                  int64_t ld_bias = 0) {
  using V = typename A::V;
  return {from,
          ld_from,
          bias,
          ld_bias,
          &point,
          [](const void* p, int64_t row, int64_t panel) { static_cast<const Point*>(p)->prepare(row, panel); },
          [](const void* p, int64_t row, int64_t panel, const V(&sums)[G]) {
            static_cast<const Point*>(p)->finish(row, panel, sums);
          }};
}
// The point itself, or what make_visit() makes of it.
template <class A, class Cell, class Point, class Make>
RNNK_HD decltype(auto) visited(const Point& point, const Make& make_visit) {
  if constexpr ((Cell::kHasOptions && !A::matrix) || Point::kRare) return make_visit();
  else return (point);
}

// result[r0..r1) x [p0..p1) panels, of operands with K entries and weights w.
template <class A, int G, class Fn>
void for_tiles(const Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t K, const typename A::Weight* w,
               int64_t panel_stride) {
  if (r1 <= r0 || p1 <= p0) return;
  if constexpr (A::matrix) {
    A::template walk<G>(fn, r0, r1, p0, p1, K, w, panel_stride);
  } else {
    using S = Shape<typename A::V, G>;
    // Less than this many bytes are still in the second-level cache when the walk is repeated.
    const bool far = (p1 - p0) * panel_stride * int64_t{sizeof(typename A::Weight)} > near_bytes();
    const Walk<A> walk{K, w, panel_stride, far ? p0 : -1};
    if (r1 - r0 <= S::flat_rows) return tile_columns<A, G, S::flat_panels, S::flat_rows>(fn, r0, r1, p0, p1, walk);
    for (; r0 < r1; r0 += Walk<A>::kRows) {
      tile_columns<A, G, S::panels, S::rows>(fn, r0, smaller(r1, r0 + Walk<A>::kRows), p0, p1, walk);
    }
  }
}

}  // namespace
}  // namespace rnnk
