// The product micro-kernel and the loop over tiles: the one inner loop of the library.
//
// A panel is `G` vectors of columns, stored [k][G][lanes] (with pairs: [k / 2][G][lanes][2]); with 16 registers, four gates are two
// groups of two, one after the other. A tile is R rows x P neighbouring panels, all of its R*P*G accumulators in registers (or those of
// a group), k innermost and sequential. Every element of a result is the sum of chains of kChain terms,
//   chain(j) = 0; for k in [kChain j, kChain (j + 1)): chain(j) = fma(a[k], w[k], chain(j))
//   sum = start; for j: sum = sum + chain(j)
// whatever the tile, the number of rows or the thread: the promise "same bits" is kept here. One chain over all terms would round
// K times at the size of the whole sum; chains round kChain times at the size of a part, as BLAS's blocks do.
#pragma once
#include "core/kernel.h"
#include "cpu/arithmetic.h"

namespace rnnk {
namespace {

// How many rows and panels a tile has. 32 registers (AVX-512, NEON): 24 accumulators; 16 (AVX2): 12. With a few rows there must
// still be more than 8 independent chains to hide the latency of the FMA, so the tile grows sideways.
template <class V>
constexpr int tile_panels(int gates) {
  return gates >= 4 ? 1 : gates >= 2 ? (V::registers >= 32 ? 2 : 1) : (V::registers >= 32 ? 4 : 2);
}
// Sums in registers. Weights that are widened take some, too: with three gates of 16, sums would be in memory (GRU of bfloat16,
// B = 16, took 1.5 times as long).
template <class A>
constexpr int tile_sums(int gates) {
  if constexpr (A::V::registers >= 32) return 24;
  else return A::step < A::pair && gates == 3 ? 9 : 12;
}
// Gates that stand side by side in packed weights. With 12 sums a tile of four gates has 3 rows, and 16 rows leave tiles of 2, whose 8
// sums wait for each other. So it may have 6, in two sweeps over the terms, of two gates each, which read a stream each. (Every other
// line of a stream of four: LSTM, B = 4, took 1.1 to 1.2 times as long.)
template <class V>
constexpr int side_by_side(int gates) {
  return V::registers < 32 && gates == 4 ? 2 : gates;
}
template <class A>
constexpr int tile_rows(int gates) {
  using V = typename A::V;
  return tile_sums<A>(gates) / (tile_panels<V>(gates) * gates) * (gates / side_by_side<V>(gates));
}
// Vectors of a sweep: those side by side, or all that a tile of so many panels and rows has.
template <class A>
constexpr int sweep_vectors(int gates, int panels, int rows) {
  const int side = side_by_side<typename A::V>(gates);
  return side < gates && rows * panels * gates > tile_sums<A>(gates) ? side : panels * gates;
}
// Up to flat_rows rows are a tile of their own, of more panels.
template <class V>
constexpr int flat_rows(int gates) {
  return V::registers >= 32 ? 2 : gates >= 4 ? 1 : gates == 3 ? 2 : 3;
}
template <class A>
constexpr int flat_panels(int gates, int rows) {
  const int vectors = A::V::registers >= 32 ? 9 : rows == 1 ? 8 : tile_sums<A>(gates) / rows;
  return larger(tile_panels<typename A::V>(gates), vectors / gates);
}
template <class A, int G>
struct Shape {
  using V = typename A::V;
  static constexpr int panels = tile_panels<V>(G), rows = tile_rows<A>(G), flat_rows = rnnk::flat_rows<V>(G);
  static constexpr int flat_panels(int rows) { return rnnk::flat_panels<A>(G, rows); }
};

// What bounds a walk over weights that do not stay in the second-level cache: its first reading of each panel, which stalls a
// tile for several times its own duration. So while the tiles of a column of panels compute, they fetch the column after it.
//
// Ahead is one tile's share: `bytes` with every kTerms<A> terms, in segments (one per panel, or group of its gates) of `segment` bytes,
// `stride` apart.
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
// Terms of the chains, unrolled: counters and pointers would take the FMA units' issue slots.
template <class A>
constexpr int kTerms = A::pair > 2 ? 4 * A::pair : 4;
// Shorter chains are more exact, and load, add and store the sums more often (bench/NOTES.md).
constexpr int64_t kChain = 256;

// One tile's product, of R rows of `count` terms and P panels: sums [R][P][G][lanes]. The terms begin a chain.
template <class A>
struct Tile {
  const typename A::Operand* const* a;  // [R]: the first term of each row
  int64_t count, chain;                 // chain: kChain, or what the product says instead
  const typename A::Weight* w;          // the first term of the first panel
  int64_t panel_stride, group_stride;   // between panels, and between groups of gates that stand side by side
  int64_t gate_stride;                  // of weights that are not packed (unpacked.h)
  bool more;                            // the sums have the chains before
  const typename A::T* start;  // else what the first chain is added to, panel p: start + p * start_panel; null: zero
  int64_t start_panel;
  typename A::T* sums;
  Ahead next;
};

// The micro-kernel. It knows nothing of the cell, so there is one for each shape of tile and arithmetic, not one for each cell.
template <class A, int G, int R, int P>
__attribute__((noinline)) void multiply(const Tile<A>& tile) {
  using V = typename A::V;
  constexpr int all = P * G, N = sweep_vectors<A>(G, P, R), terms = kTerms<A>;
  constexpr int side = side_by_side<V>(G);
  constexpr int64_t width = side * V::lanes;  // of one term
  static_assert(terms % A::pair == 0 && kChain % terms == 0, "whole pairs, and whole unrolled terms");
  static_assert(N == all || (P == 1 && N == side), "a sweep is a group of one panel");
  // Tiles of one row and flat ones stand alone in their column: they fetch nothing.
  constexpr bool fetches = R > 1 && P <= Shape<A, G>::panels;
  const int64_t count = tile.count, panel_stride = tile.panel_stride, group_stride = tile.group_stride;
  V acc[R][N];
  Ahead next = tile.next;  // each sweep fetches its share
  if constexpr (N < all) next.bytes = round_up(next.bytes * N / all, 64);
  for (int first = 0; first < all; first += N) {  // sweeps
    const typename A::Weight* w = tile.w + first / side * group_stride;
    const typename A::Operand* a[R];
    RNNK_UNROLL for (int r = 0; r < R; ++r) a[r] = tile.a[r];
    // Terms [k, k + A::step), the first of them the jth of its pair, whose weights stand at w.
    const auto term = [&](int64_t k, int j, const typename A::Weight* w) {
      const auto weights = [&](int i) {
        return A::weights(w + i / G * panel_stride + i % G / side * group_stride + i % side * (V::lanes * A::pair), j);
      };
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
    };
    int64_t k = 0;
    for (bool more = tile.more;; more = true) {
      RNNK_UNROLL for (int r = 0; r < R; ++r) { RNNK_UNROLL for (int i = 0; i < N; ++i) acc[r][i] = V::set1(0); }
      const int64_t end = smaller(k + tile.chain, count);
      for (; k + terms <= end; k += terms, w += terms * width) {
        RNNK_UNROLL for (int j = 0; j < terms; j += A::step) term(k + j, j % A::pair, w + (j - j % A::pair) * width);
        if constexpr (fetches) next.fetch();
      }
      for (int j = 0; k + j < end; j += A::step) term(k + j, j % A::pair, w + (j - j % A::pair) * width);
      const auto add = [&](const typename A::T* to, int64_t row, int64_t panel) {
        RNNK_UNROLL for (int r = 0; r < R; ++r) {
          RNNK_UNROLL for (int i = 0; i < N; ++i) {
            acc[r][i] = V::load(to + r * row + i / G * panel + (first + i % G) * V::lanes) + acc[r][i];
          }
        }
      };
      if (more) add(tile.sums, all * V::lanes, G * V::lanes);
      else if (tile.start) add(tile.start, 0, tile.start_panel);
      RNNK_UNROLL for (int r = 0; r < R; ++r) {
        RNNK_UNROLL for (int i = 0; i < N; ++i) acc[r][i].store(tile.sums + (r * all + first + i) * V::lanes);
      }
      if (end == count) break;
    }
  }
}

// Into the second-level cache: the lines that hold `count` elements.
template <class T>
RNNK_HD void fetch(const T* from, int64_t count) {
  const char* line = reinterpret_cast<const char*>(from);
  for (const char* end = line + count * sizeof(T); line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

// The initial value of the sums of a product: zero, or a bias.
template <class A>
struct Start {
  const typename A::T* from = nullptr;  // [panel][stride]; null: zero
  int64_t stride = 0;

  typename A::V of(int64_t panel, int g) const {
    return from ? A::V::load(from + panel * stride + g * A::V::lanes) : A::V::set1(0);
  }
};

// The micro-kernels by shape. Their panels are those of a flat tile or of a tall one, or what is left over of either.
template <class A, int G>
struct MicroKernels {
  using S = Shape<A, G>;
  using Function = void (*)(const Tile<A>&);
  static constexpr int kRows = larger(S::rows, S::flat_rows);

  // Panels of the tiles that do what tiles of P panels leave over.
  static constexpr int narrower(int P) { return P > 4 ? 4 : P > 2 ? 2 : 1; }

  template <int P, int R>
  static Function of_panels(int panels) {
    if constexpr (P > 1) {
      if (panels < P) return of_panels<narrower(P), R>(panels);
    }
    return multiply<A, G, R, P>;
  }
  template <int R>
  static Function of_rows(int rows, int panels) {
    if constexpr (R > 1) {
      if (rows < R) return of_rows<R - 1>(rows, panels);
    }
    if constexpr (R <= S::flat_rows) {
      if (panels > S::panels) return of_panels<S::flat_panels(R), R>(panels);
    }
    return of_panels<S::panels, R>(panels);
  }
  // rows x panels: panels are S::flat_panels(rows) or S::panels, or narrower() of one of them.
  static Function of(int rows, int panels) { return of_rows<kRows>(rows, panels); }
};

// How a product is cut into passes and columns of tiles. Nothing here touches the bits: passes are of whole chains.
template <class A, int G>
struct Walk {
  using Kernels = MicroKernels<A, G>;
  static constexpr int side = side_by_side<typename A::V>(G);
  static constexpr int64_t width = G * A::V::lanes, term_bytes = width * sizeof(typename A::Weight);  // of one term
  static constexpr int64_t group_width = side * A::V::lanes;
  static constexpr int64_t kRows = 96;               // whose partial sums fit the stack
  static constexpr int64_t kBlockBytes = 256 << 10;  // of weights: this column's and the next one's stay in a cache of 1 MiB

  int64_t K;
  const typename A::Weight* w;
  int64_t panel_stride;
  int64_t first;  // panel of the walk, or -1: nothing is fetched ahead

  // How columns of so many panels are walked: in tiles of two heights, the first `talls` of them tall; terms in passes of as many.
  struct Height {
    int64_t rows = 0;
    typename Kernels::Function kernel = nullptr;
  };
  int panels = 0;
  int64_t tiles = 0, talls = 0, block = 0;
  Height tall = {}, low = {};

  RNNK_HD void set_columns(int columns, int64_t rows, int64_t most) {
    panels = columns, block = larger<int64_t>(K, 1);
    tiles = talls = 1, tall.rows = low.rows = rows;
    if (rows > most) deal(rows, most);
    if (const int64_t bytes = panels * term_bytes; K * bytes > kBlockBytes) {
      block = round_up(ceil_div(K, ceil_div(K, kBlockBytes / bytes)), kChain);
    }
    tall.kernel = Kernels::of(static_cast<int>(tall.rows), panels),
    low.kernel = Kernels::of(static_cast<int>(low.rows), panels);
  }
  // Evenly: 8 = 4 + 4, not 6 + 2. But 4 rows in sweeps of 2 vectors are 8 sums, which wait for each other (85 of 102 GFLOP/s, where 3
  // and 5 rows make 94 and more): 8 = 5 + 3.
  RNNK_HD void deal(int64_t rows, int64_t most) {
    tiles = ceil_div(rows, most), talls = rows % tiles, low.rows = rows / tiles, tall.rows = low.rows + 1;
    const int64_t threes = 2 * rows % 5;
    if (low.rows == 4 && most > 4 && sweep_vectors<A>(G, panels, 4) == 2 && 3 * threes <= rows) {
      talls = (rows - 3 * threes) / 5, tiles = talls + threes, tall.rows = 5, low.rows = 3;
    }
  }
};

template <class Fn>
constexpr int64_t chain_of() {
  if constexpr (requires { Fn::chain; }) {
    static_assert(kChain % Fn::chain == 0 && Fn::chain % 4 == 0, "passes are of whole chains");
    return Fn::chain;
  } else {
    return kChain;
  }
}

// The places of a tile, in the order of its sums.
struct Places {
  int64_t row, panel, first_panel, end_panel, left;
  RNNK_HD void next() {
    if (++panel == end_panel) panel = first_panel, ++row;
  }
};
template <int N, int G, class V, class Fn>
RNNK_HD void finish_places(const Fn& fn, Places& at, const typename V::T*& sums) {
  int64_t row[N], panel[N];
  RNNK_UNROLL for (int n = 0; n < N; ++n, at.next()) row[n] = at.row, panel[n] = at.panel;
  if constexpr (N > 1) {
    fn.finish(row, panel, sums);
  } else {
    V gates[G];
    RNNK_UNROLL for (int g = 0; g < G; ++g) gates[g] = V::load(sums + g * V::lanes);
    fn.finish(row[0], panel[0], gates);
  }
  sums += N * G * V::lanes, at.left -= N;
}

// One tile. Fn offers
//   const Operand* operand(row)      the row of the left side; K entries are read
//   Start<A> start()                 what the sums begin with
//   void prepare(row, panel)         fetches what finish() will meet, if that may be far away
//   void finish(row, panel, const V (&gates)[G])
//   void finish(rows, panels, sums)  of 2 to 4 places, whose sums follow one another; it may be absent
//   static constexpr int64_t chain   terms of its chains, where they are not kChain but a part of it
// k: the first of its terms; last: no pass follows.
template <class A, int G, class Fn>
void run_tile(const void* self, typename MicroKernels<A, G>::Function kernel, int64_t row, int rows, int64_t panel,
              int panels, int64_t k, bool last, Tile<A>& tile) {
  using V = typename A::V;
  const Fn& fn = *static_cast<const Fn*>(self);
  const typename A::Operand* a[MicroKernels<A, G>::kRows];
  for (int r = 0; r < rows; ++r) a[r] = fn.operand(row + r) + k;
  for (int r = 0; last && r < rows; ++r) {
    for (int p = 0; p < panels; ++p) fn.prepare(row + r, panel + p);
  }
  tile.a = a;
  kernel(tile);
  if (!last) return;
  const typename A::T* sums = tile.sums;
  Places at{row, panel, panel, panel + panels, int64_t{rows} * panels};
  if constexpr (requires(const int64_t (&places)[2]) { fn.finish(places, places, sums); }) {
    while (at.left > 1) {
      if (at.left == 4 || at.left > 6) finish_places<4, G, V>(fn, at, sums);
      else if (at.left > 2) finish_places<3, G, V>(fn, at, sums);
      else finish_places<2, G, V>(fn, at, sums);
    }
  }
  while (at.left > 0) finish_places<1, G, V>(fn, at, sums);
}

// A product as the walk over its tiles knows it: one walk is compiled for each arithmetic, not one for each product.
template <class A, int G>
struct TiledProduct {
  const void* fn;
  const typename A::Operand* (*operand)(const void* fn,
                                        int64_t row);  // of those whose operands are made into bytes (int8.h)
  void (*run)(const void* fn, typename MicroKernels<A, G>::Function kernel, int64_t row, int rows, int64_t panel, int panels,
              int64_t k, bool last, Tile<A>& tile);  // run_tile
  Start<A> start;
  int64_t chain;
};
template <class A, int G, class Fn>
TiledProduct<A, G> tiled(const Fn& fn) {
  return {&fn, [](const void* fn, int64_t row) { return static_cast<const Fn*>(fn)->operand(row); }, run_tile<A, G, Fn>,
          fn.start(), chain_of<Fn>()};
}

// One column of tiles: rows from r0 on, panels from `panel` on.
template <class A, int G>
void tile_column(const TiledProduct<A, G>& product, int64_t r0, int64_t panel, int64_t next_panel, const Walk<A, G>& walk,
                 Tile<A>& tile) {
  using Walk = Walk<A, G>;
  constexpr int64_t width = Walk::width, group_width = Walk::group_width, weight = sizeof(typename A::Weight);
  const int panels = walk.panels;
  typename A::T* const sums = tile.sums;
  const typename A::Weight* const w = tile.w;
  for (int64_t k = 0; k == 0 || k < walk.K; k += walk.block) {
    const bool last = k + walk.block >= walk.K;
    tile.count = smaller(walk.block, walk.K - k), tile.w = w + k * group_width, tile.sums = sums, tile.next = Ahead{};
    if (walk.first >= 0 && walk.tiles > 1 && walk.K > 0) {
      Ahead& next = tile.next;
      const int64_t then = last ? 0 : k + walk.block;
      next.segment = smaller(walk.block, walk.K - then) * group_width * weight;
      next.stride = (Walk::side < G ? tile.group_stride : walk.panel_stride) * weight;
      next.bytes = round_up(ceil_div(panels * kTerms<A> * Walk::term_bytes, walk.tiles), 64);
      next.from =
          reinterpret_cast<const char*>(walk.w + (last ? next_panel : panel) * walk.panel_stride + then * group_width);
      next.end = next.from + next.segment;
    }
    for (int64_t i = 0, row = r0; i < walk.tiles; ++i) {
      const auto& height = i < walk.talls ? walk.tall : walk.low;
      const int rows = static_cast<int>(height.rows);
      tile.more = k > 0;
      product.run(product.fn, height.kernel, row, rows, panel, panels, k, last, tile);
      row += rows;
      if (walk.block < walk.K) tile.sums += rows * panels * width;  // they wait for the next pass
      tile.next.skip(tile.count / kTerms<A>);
    }
  }
  tile.sums = sums;
}

template <class A, int G>
__attribute__((noinline)) void walk_tiles(const TiledProduct<A, G>& product, int64_t r0, int64_t r1, int64_t p0, int64_t p1,
                                          int64_t K, const typename A::Weight* w, int64_t panel_stride) {
  using S = Shape<A, G>;
  using T = typename A::T;
  using Walk = Walk<A, G>;
  alignas(64) T sums[Walk::kRows * S::panels * Walk::width];
  static_assert(S::flat_rows * S::flat_panels(1) <= Walk::kRows, "room for a flat tile");
  // Less than this many bytes are still in the second-level cache when the walk is repeated.
  const bool far = (p1 - p0) * panel_stride * int64_t{sizeof(typename A::Weight)} > near_bytes();
  Walk walk{K, w, panel_stride, far ? p0 : -1};
  const bool flat = r1 - r0 <= S::flat_rows;
  const Start<A> start = product.start;
  Tile<A> tile;
  tile.panel_stride = panel_stride, tile.group_stride = round_up(K, larger(A::depth, A::pair)) * walk.group_width,
  tile.sums = sums, tile.chain = product.chain;
  for (; r0 < r1; r0 += walk.kRows) {
    const int64_t rows = smaller(r1 - r0, walk.kRows);
    int panels = flat ? S::flat_panels(static_cast<int>(rows)) : S::panels;  // then narrower columns for what is left over
    for (int64_t p = p0; p < p1; p += panels) {
      while (p + panels > p1) panels = MicroKernels<A, G>::narrower(panels);
      if (panels != walk.panels || p == p0) walk.set_columns(panels, rows, flat ? S::flat_rows : S::rows);
      tile.w = w + p * panel_stride;
      tile.more = false, tile.start = start.from ? start.from + p * start.stride : nullptr, tile.start_panel = start.stride;
      if (walk.tiles == 1 && K <= walk.block) {  // nothing waits, and there is nobody to fetch for
        tile.count = K, tile.next = Ahead{};
        product.run(product.fn, walk.tall.kernel, r0, static_cast<int>(rows), p, panels, 0, true, tile);
      } else {
        const int64_t next = p + panels < p1 ? p + panels : walk.first;  // round again: the next step begins there
        tile_column<A, G>(product, r0, p, next, walk, tile);
      }
    }
  }
}

// result[r0..r1) x [p0..p1) panels, of operands with K entries and weights w.
template <class A, int G, class Fn>
void for_tiles(const Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t K, const typename A::Weight* w,
               int64_t panel_stride) {
  if (r1 <= r0 || p1 <= p0) return;
  if constexpr (A::matrix) A::template walk<G>(fn, r0, r1, p0, p1, K, w, panel_stride);
  else walk_tiles<A, G>(tiled<A, G>(fn), r0, r1, p0, p1, K, w, panel_stride);
}

}  // namespace
}  // namespace rnnk
