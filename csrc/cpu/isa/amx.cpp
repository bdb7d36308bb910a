// cpu_amx: products of bfloat16 in the matrix unit, the pointwise part in AVX-512.
//
// A tile register holds 16 rows of 64 bytes. One instruction multiplies 16 rows x 32 terms by 32 terms x 16 columns and takes
// the matrix unit 16 cycles, in which the vector units are free. So results go to memory a column of panels at a time,
// and while the next column is multiplied, the pointwise part of the one before runs between the instructions.
#include "cpu/isa/avx512_vec.h"

#include "cpu/instantiate.h"

namespace rnnk {
namespace {

// The compiler's intrinsics do not say that a load reads memory (GCC 12).
#define RNNK_TILE_LOAD(tile, from, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(from), "r"(static_cast<long>(stride)) : "memory")
#define RNNK_TILE_STORE(tile, to, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(static_cast<long>(stride)) : "memory")
#define RNNK_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile::)
#define RNNK_TILE_MULTIPLY(sum, rows, weights) __asm__ volatile("tdpbf16ps %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sum::)

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

struct Matrix : Rounded<VecF> {
  static constexpr bool matrix = true;
  static constexpr int depth = 32;
  static constexpr int rows = 32, least_rows = 16;  // of one multiplication
  static double cycles_per_fma() { return 1.0 / 32; }

  // Rows of the left side that stand at equal distances.
  struct Group {
    int64_t row;
    int rows;
    const char* from;
    int64_t stride;  // bytes
  };

  // Products of one group and some vectors of columns, in memory, waiting for their pointwise part.
  template <int G, int P, class Fn>
  struct Results {
    alignas(64) float sums[rows * P * G * 16];  // [row][panel][G][16], as many panels as there are
    const Fn& fn;
    int64_t row = 0, panel = 0;
    int panels = 1, done = 0, count = 0;

    explicit Results(const Fn& fn) : fn(fn) {}
    __attribute__((noinline)) void finish(int until) {
      const Start<Matrix> start = fn.start();
      for (; done < until; ++done) {
        const int64_t r = row + done / panels, p = panel + done % panels;
        VecF gates[G];
        RNNK_UNROLL for (int g = 0; g < G; ++g) { gates[g] = start.of(p, g) + VecF::load(sums + (done * G + g) * 16); }
        fn.finish(r, p, gates);
      }
    }
    void finish_some(int some) { finish(smaller(done + some, count)); }
  };

  // sums[group.rows][vectors] from `steps` times 32 terms; between the instructions, work() is done.
  template <int R, int N, class Work>
  RNNK_HD static void multiply(const Group& group, int64_t steps, const char* w0, const char* w1, int64_t w_stride,
                               float* sums, int64_t sums_stride, const Work& work) {
    RNNK_TILE_ZERO(0);
    if constexpr (N > 1) RNNK_TILE_ZERO(1);
    if constexpr (R > 1) RNNK_TILE_ZERO(2);
    if constexpr (R > 1 && N > 1) RNNK_TILE_ZERO(3);
    const char* a = group.from;
    for (int64_t k = 0; k < steps; ++k, a += 64, w0 += 16 * w_stride, w1 += 16 * w_stride) {
      RNNK_TILE_LOAD(6, w0, w_stride);
      RNNK_TILE_LOAD(4, a, group.stride);
      RNNK_TILE_MULTIPLY(0, 4, 6);
      if constexpr (N > 1) {
        RNNK_TILE_LOAD(7, w1, w_stride);
        RNNK_TILE_MULTIPLY(1, 4, 7);
      }
      if constexpr (R > 1) {
        RNNK_TILE_LOAD(5, a + 16 * group.stride, group.stride);
        RNNK_TILE_MULTIPLY(2, 5, 6);
      }
      if constexpr (R > 1 && N > 1) RNNK_TILE_MULTIPLY(3, 5, 7);
      work();
    }
    RNNK_TILE_STORE(0, sums, sums_stride);
    if constexpr (N > 1) RNNK_TILE_STORE(1, sums + 16, sums_stride);
    if constexpr (R > 1) RNNK_TILE_STORE(2, sums + 4 * sums_stride, sums_stride);
    if constexpr (R > 1 && N > 1) RNNK_TILE_STORE(3, sums + 4 * sums_stride + 16, sums_stride);
  }

  // The arguments of for_tiles (tile.h).
  template <int G, class Fn>
  static void walk(const Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t K, const uint16_t* w,
                   int64_t panel_stride) {
    constexpr int P = G % 2 ? 2 : 1;           // panels whose vectors make whole pairs
    constexpr int64_t kBandBytes = 512 << 10;  // of operands, which a column of weights meets one group after the other
    constexpr int kGroups = 64;
    const int64_t steps = ceil_div(K, depth), w_stride = G * 64;
    const int64_t band = larger<int64_t>(rows, kBandBytes / larger<int64_t>(1, steps * 64));
    const bool far = (p1 - p0) * panel_stride * 2 > near_bytes();
    Results<G, P, Fn> results[2] = {Results<G, P, Fn>(fn), Results<G, P, Fn>(fn)};
    int turn = 0, configured = 0;
    while (r0 < r1) {
      Group groups[kGroups];
      int n = 0;
      for (const int64_t first = r0; r0 < r1 && n < kGroups && r0 < first + band; r0 += groups[n++].rows) {
        groups[n] = group(fn, r0, r1);
      }
      for (int64_t p = p0; p < p1; p += P) {
        const int panels = static_cast<int>(smaller<int64_t>(P, p1 - p)), vectors = panels * G;
        const int64_t total = (vectors + 1) / 2 * steps;  // of one group
        Ahead next;
        if (far && n > 1) {
          const int64_t then = p + P < p1 ? p + P : p0;
          next.segment = panel_stride * 2, next.stride = panel_stride * 2;
          next.bytes = round_up(ceil_div(P * panel_stride * 2, larger<int64_t>(1, total * n)), 64);
          next.from = reinterpret_cast<const char*>(w + then * panel_stride), next.end = next.from + next.segment;
        }
        for (int i = 0; i < n; ++i) {
          const Group& at = groups[i];
          if (at.rows != configured) configure(configured = at.rows);
          Results<G, P, Fn>&now = results[turn], &before = results[turn ^ 1];
          now.row = at.row, now.panel = p, now.panels = panels, now.done = 0, now.count = at.rows * panels;
          const int some = static_cast<int>(ceil_div(before.count, larger<int64_t>(1, total)));
          int prepared = 0;
          const auto work = [&] {
            before.finish_some(some);
            for (const int until = smaller(prepared + some, now.count); prepared < until; ++prepared) {
              fn.prepare(at.row + prepared / panels, p + prepared % panels);
            }
            next.fetch();
          };
          for (int v = 0; v < vectors; v += 2) {
            const auto from = [&](int i) {
              return reinterpret_cast<const char*>(w + (p + i / G) * panel_stride) + i % G * 64;
            };
            const char *w0 = from(v), *w1 = v + 1 < vectors ? from(v + 1) : w0;
            float* sums = now.sums + v * 16;
            const int64_t stride = vectors * 64;
            if (at.rows > 16 && v + 1 < vectors) multiply<2, 2>(at, steps, w0, w1, w_stride, sums, stride, work);
            else if (at.rows > 16) multiply<2, 1>(at, steps, w0, w1, w_stride, sums, stride, work);
            else if (v + 1 < vectors) multiply<1, 2>(at, steps, w0, w1, w_stride, sums, stride, work);
            else multiply<1, 1>(at, steps, w0, w1, w_stride, sums, stride, work);
          }
          before.finish(before.count);
          turn ^= 1;
        }
      }
    }
    results[turn ^ 1].finish(results[turn ^ 1].count);
    __asm__ volatile("tilerelease" ::);
  }

  template <class Fn>
  static Group group(const Fn& fn, int64_t row, int64_t end) {
    const char* from = reinterpret_cast<const char*>(fn.operand(row));
    Group g{row, 1, from, 64};
    const int64_t most = smaller<int64_t>(rows, end - row);
    if (most > 1) g.stride = reinterpret_cast<const char*>(fn.operand(row + 1)) - from;
    while (g.rows < most && reinterpret_cast<const char*>(fn.operand(row + g.rows)) == from + g.rows * g.stride) ++g.rows;
    return g;
  }
};

}  // namespace

extern const Kernel cpu_amx_kernel;
const Kernel cpu_amx_kernel =
    cpu_kernel<Arithmetics<void, void, Matrix>>("cpu_amx", kAvx512f | kAvx512bw | kAvx512vl | kAvx512dq | kFma | kAmxBf16);

}  // namespace rnnk
