// The matrix unit's walk over a product, of bfloat16 and of bytes: to the unit a row is 64 bytes either way.
//
// A tile register holds 16 rows of 64 bytes. One instruction multiplies 16 rows x 64 bytes of terms by as many terms x 16 columns and
// takes the unit 16 cycles, in which the vector units are free. So results go to memory a column of panels at a time, and while the next
// column is multiplied, the pointwise part of the one before runs between the instructions.
#pragma once
#include "cpu/isa/avx512_vec.h"

#include "cpu/tile.h"

namespace rnnk {
namespace {

constexpr int kTileRows = 32, kLeastTileRows = 16;  // of one multiplication

// The compiler's intrinsics do not say that a load reads memory (GCC 12).
#define RNNK_TILE_LOAD(tile, from, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(from), "r"(static_cast<long>(stride)) : "memory")
#define RNNK_TILE_STORE(tile, to, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(static_cast<long>(stride)) : "memory")
#define RNNK_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile::)
// bytes: rows without sign by weights with one
#define RNNK_TILE_MULTIPLY(bytes, sum, rows, weights)                                               \
  if constexpr (bytes) __asm__ volatile("tdpbusd %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sum::); \
  else __asm__ volatile("tdpbf16ps %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sum::)

// Tiles 0-3 hold sums (row tile i, vector j: 2 i + j), 4 and 5 operands of row tiles 0 and 1, 6 and 7 weights.
inline void configure(int rows) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  const auto set = [&](int tile, int n) {
    config.bytes[tile] = n > 0 ? 64 : 0, config.rows[tile] = static_cast<uint8_t>(n);
  };
  const int low = smaller(rows, 16), high = rows - low;
  set(0, low), set(1, low), set(4, low);
  set(2, high), set(3, high), set(5, high);
  set(6, 16), set(7, 16);
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

// Rows of the left side that stand at equal distances.
struct Group {
  int64_t row;
  int rows;
  const char* from;
  int64_t stride;  // bytes
};

// A product of P offers
//   Sum                                type of a sum: float or int32
//   const char* operand(row)
//   void prepare(row, panel)           fetches what finish() will meet
//   void finish(row, rows, panel, panels, Sum* sums)   sums [rows][panels][G][16]
template <class P>
Group group_of(const P& product, int64_t row, int64_t end) {
  const char* from = product.operand(row);
  Group g{row, 1, from, 64};
  const int64_t most = smaller<int64_t>(kTileRows, end - row);
  if (most > 1) g.stride = product.operand(row + 1) - from;
  while (g.rows < most && product.operand(row + g.rows) == from + g.rows * g.stride) ++g.rows;
  return g;
}

// Products of one group and some vectors of columns, in memory, waiting for their pointwise part.
template <int G, int N, class P>
struct Results {
  alignas(64) typename P::Sum sums[kTileRows * N * G * 16];  // [row][panel][G][16], as many panels as there are
  const P& product;
  int64_t row = 0, panel = 0;
  int panels = 1, done = 0, rows = 0;  // done: of its rows

  explicit Results(const P& product) : product(product) {}
  __attribute__((noinline)) void finish(int until) {
    if (until > done) product.finish(row + done, until - done, panel, panels, sums + done * panels * (G * 16));
    done = until;
  }
  void finish_some(int some) { finish(smaller(done + some, rows)); }
};

// sums[group.rows][vectors] from `steps` times 64 bytes of terms; between the instructions, work() is done.
template <bool bytes, int R, int N, class Work>
RNNK_HD void multiply_group(const Group& group, int64_t steps, const char* w0, const char* w1, int64_t w_stride, void* sums,
                            int64_t sums_stride, const Work& work) {
  RNNK_TILE_ZERO(0);
  if constexpr (N > 1) RNNK_TILE_ZERO(1);
  if constexpr (R > 1) RNNK_TILE_ZERO(2);
  if constexpr (R > 1 && N > 1) RNNK_TILE_ZERO(3);
  const char* a = group.from;
  for (int64_t k = 0; k < steps; ++k, a += 64, w0 += 16 * w_stride, w1 += 16 * w_stride) {
    RNNK_TILE_LOAD(6, w0, w_stride);
    RNNK_TILE_LOAD(4, a, group.stride);
    RNNK_TILE_MULTIPLY(bytes, 0, 4, 6);
    if constexpr (N > 1) {
      RNNK_TILE_LOAD(7, w1, w_stride);
      RNNK_TILE_MULTIPLY(bytes, 1, 4, 7);
    }
    if constexpr (R > 1) {
      RNNK_TILE_LOAD(5, a + 16 * group.stride, group.stride);
      RNNK_TILE_MULTIPLY(bytes, 2, 5, 6);
    }
    if constexpr (R > 1 && N > 1) {
      RNNK_TILE_MULTIPLY(bytes, 3, 5, 7);
    }
    work();
  }
  char* const to = static_cast<char*>(sums);
  RNNK_TILE_STORE(0, to, sums_stride);
  if constexpr (N > 1) RNNK_TILE_STORE(1, to + 64, sums_stride);
  if constexpr (R > 1) RNNK_TILE_STORE(2, to + 16 * sums_stride, sums_stride);
  if constexpr (R > 1 && N > 1) RNNK_TILE_STORE(3, to + 16 * sums_stride + 64, sums_stride);
}

// Rows [r0, r1) by panels [p0, p1) of weights w, of `steps` times 64 bytes of terms; panels are panel_bytes apart.
template <bool bytes, int G, class P>
void matrix_walk(const P& product, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t steps, const char* w,
                 int64_t panel_bytes) {
  constexpr int N = G % 2 ? 2 : 1;           // panels whose vectors make whole pairs
  constexpr int64_t kBandBytes = 512 << 10;  // of operands, which a column of weights meets one group after the other
  constexpr int kGroups = 64;
  const int64_t w_stride = G * 64;
  const int64_t band = larger<int64_t>(kTileRows, kBandBytes / larger<int64_t>(1, steps * 64));
  const bool far = (p1 - p0) * panel_bytes > near_bytes();
  Results<G, N, P> results[2] = {Results<G, N, P>(product), Results<G, N, P>(product)};
  int turn = 0, configured = 0;
  while (r0 < r1) {
    Group groups[kGroups];
    int n = 0;
    for (const int64_t first = r0; r0 < r1 && n < kGroups && r0 < first + band; r0 += groups[n++].rows) {
      groups[n] = group_of(product, r0, r1);
    }
    for (int64_t p = p0; p < p1; p += N) {
      const int panels = static_cast<int>(smaller<int64_t>(N, p1 - p)), vectors = panels * G;
      const int64_t total = (vectors + 1) / 2 * steps;  // of one group
      Ahead next;
      if (far && n > 1) {
        const int64_t then = p + N < p1 ? p + N : p0;
        next.segment = panel_bytes, next.stride = panel_bytes;
        next.bytes = round_up(ceil_div(N * panel_bytes, larger<int64_t>(1, total * n)), 64);
        next.from = w + then * panel_bytes, next.end = next.from + next.segment;
      }
      for (int i = 0; i < n; ++i) {
        const Group& at = groups[i];
        if (at.rows != configured) configure(configured = at.rows);
        Results<G, N, P>&now = results[turn], &before = results[turn ^ 1];
        now.row = at.row, now.panel = p, now.panels = panels, now.done = 0, now.rows = at.rows;
        const int some = static_cast<int>(ceil_div(before.rows, larger<int64_t>(1, total)));
        int prepared = 0;
        const auto work = [&] {
          before.finish_some(some);
          for (const int until = smaller(prepared + some, now.rows); prepared < until; ++prepared) {
            for (int j = 0; j < panels; ++j) product.prepare(at.row + prepared, p + j);
          }
          next.fetch();
        };
        for (int v = 0; v < vectors; v += 2) {
          const auto from = [&](int i) { return w + (p + i / G) * panel_bytes + i % G * 64; };
          const char *w0 = from(v), *w1 = v + 1 < vectors ? from(v + 1) : w0;
          auto* sums = now.sums + v * 16;
          const int64_t stride = vectors * 64;
          if (at.rows > 16 && v + 1 < vectors) multiply_group<bytes, 2, 2>(at, steps, w0, w1, w_stride, sums, stride, work);
          else if (at.rows > 16) multiply_group<bytes, 2, 1>(at, steps, w0, w1, w_stride, sums, stride, work);
          else if (v + 1 < vectors) multiply_group<bytes, 1, 2>(at, steps, w0, w1, w_stride, sums, stride, work);
          else multiply_group<bytes, 1, 1>(at, steps, w0, w1, w_stride, sums, stride, work);
        }
        before.finish(before.rows);
        turn ^= 1;
      }
    }
  }
  results[turn ^ 1].finish(results[turn ^ 1].rows);
  __asm__ volatile("tilerelease" ::);
}

}  // namespace
}  // namespace rnnk
