// The benchmark's yardsticks: peak multiply-add rate and read bandwidth of this machine.
//
// Instruction sets are chosen per function (target attribute) and at run time, so this file is compiled with the library's
// plain flags. The accumulators are named variables, not an array, because an array stays in memory at -O2. The chains end in
// a value that is stored, and every load feeds a volatile asm: nothing can be optimised away.
#include "probe.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define PROBE_X86 1
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/os.h"
#include "rnnkern/rnnkern.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// 12 chains: more than latency x throughput (4 cycles x 2 a cycle) of every x86 core since Haswell, and 12 accumulators, a
// factor and an addend fit AVX2's 16 registers. AArch64 has 32 registers and up to 4 units of 4 cycles: 24 chains.
#define CHAINS_12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define CHAINS_24(X) CHAINS_12(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define PLUS(j) +fold[j]

// Defines `double NAME(long turns)`: `turns` steps of `a = a * m + c` on every chain. m = 1 - 2^-10 and c = 2^-10 keep each
// chain on its way to 1: no overflow and no denormals, however long it runs.
#define DEFINE_FMA(NAME, TARGET, CHAINS, COUNT, VECTOR, SPLAT, FMA, FIRST) \
  TARGET __attribute__((noinline)) double NAME(long turns) {               \
    const VECTOR m = SPLAT(1 - 0x1p-10), c = SPLAT(0x1p-10);               \
    CHAINS(FMA##_DECLARE)                                                  \
    for (long turn = 0; turn < turns; ++turn) {                            \
      CHAINS(FMA##_STEP)                                                   \
    }                                                                      \
    double fold[COUNT];                                                    \
    CHAINS(FIRST)                                                          \
    return 0.0 CHAINS(PLUS);                                               \
  }

struct Fma {
  double (*run)(long);
  double flops;  // of one turn
};

struct Read {
  void (*pass)(const void*, size_t, long);  // buffer, bytes (a multiple of 1024), passes
};

#if PROBE_X86

#define ZMM __attribute__((target("avx512f")))
#define ZMM_BF16 __attribute__((target("avx512f,avx512bf16")))
#define YMM __attribute__((target("avx2,fma")))
#define XMM

#define Z32_DECLARE(j) __m512 a##j = _mm512_set1_ps(0.5f + 0.01f * j);
#define Z32_STEP(j) a##j = _mm512_fmadd_ps(a##j, m, c);
#define Z32_FIRST(j) fold[j] = _mm512_cvtss_f32(a##j);
DEFINE_FMA(fma_zmm_f32, ZMM, CHAINS_12, 12, __m512, _mm512_set1_ps, Z32, Z32_FIRST)

#define Z64_DECLARE(j) __m512d a##j = _mm512_set1_pd(0.5 + 0.01 * j);
#define Z64_STEP(j) a##j = _mm512_fmadd_pd(a##j, m, c);
#define Z64_FIRST(j) fold[j] = _mm512_cvtsd_f64(a##j);
DEFINE_FMA(fma_zmm_f64, ZMM, CHAINS_12, 12, __m512d, _mm512_set1_pd, Z64, Z64_FIRST)

// vdpbf16ps: a += m0 * c0 + m1 * c1 per lane, with a longer latency: 24 chains. 0.0 in m keeps the sum where it starts; the
// rate does not depend on values.
#define ZB16_SPLAT(v) ((__m512bh)_mm512_set1_epi32((v) > 0.5 ? 0 : 0x3f803f80))
#define ZB16_DECLARE(j) __m512 a##j = _mm512_set1_ps(0.5f + 0.01f * j);
#define ZB16_STEP(j) a##j = _mm512_dpbf16_ps(a##j, m, c);
#define ZB16_FIRST(j) fold[j] = _mm512_cvtss_f32(a##j);
DEFINE_FMA(fma_zmm_bf16, ZMM_BF16, CHAINS_24, 24, __m512bh, ZB16_SPLAT, ZB16, ZB16_FIRST)

#define Y32_DECLARE(j) __m256 a##j = _mm256_set1_ps(0.5f + 0.01f * j);
#define Y32_STEP(j) a##j = _mm256_fmadd_ps(a##j, m, c);
#define Y32_FIRST(j) fold[j] = _mm256_cvtss_f32(a##j);
DEFINE_FMA(fma_ymm_f32, YMM, CHAINS_12, 12, __m256, _mm256_set1_ps, Y32, Y32_FIRST)

#define Y64_DECLARE(j) __m256d a##j = _mm256_set1_pd(0.5 + 0.01 * j);
#define Y64_STEP(j) a##j = _mm256_fmadd_pd(a##j, m, c);
#define Y64_FIRST(j) fold[j] = _mm256_cvtsd_f64(a##j);
DEFINE_FMA(fma_ymm_f64, YMM, CHAINS_12, 12, __m256d, _mm256_set1_pd, Y64, Y64_FIRST)

// Before FMA: a multiplication and an addition, still 2 flops.
#define X32_DECLARE(j) __m128 a##j = _mm_set1_ps(0.5f + 0.01f * j);
#define X32_STEP(j) a##j = _mm_add_ps(_mm_mul_ps(a##j, m), c);
#define X32_FIRST(j) fold[j] = _mm_cvtss_f32(a##j);
DEFINE_FMA(fma_xmm_f32, XMM, CHAINS_12, 12, __m128, _mm_set1_ps, X32, X32_FIRST)

#define X64_DECLARE(j) __m128d a##j = _mm_set1_pd(0.5 + 0.01 * j);
#define X64_STEP(j) a##j = _mm_add_pd(_mm_mul_pd(a##j, m), c);
#define X64_FIRST(j) fold[j] = _mm_cvtsd_f64(a##j);
DEFINE_FMA(fma_xmm_f64, XMM, CHAINS_12, 12, __m128d, _mm_set1_pd, X64, X64_FIRST)

#elif defined(__aarch64__)

#define NEON
#define N32_DECLARE(j) float32x4_t a##j = vdupq_n_f32(0.5f + 0.01f * j);
#define N32_STEP(j) a##j = vfmaq_f32(c, a##j, m);
#define N32_FIRST(j) fold[j] = vgetq_lane_f32(a##j, 0);
DEFINE_FMA(fma_neon_f32, NEON, CHAINS_24, 24, float32x4_t, vdupq_n_f32, N32, N32_FIRST)

#define N64_DECLARE(j) float64x2_t a##j = vdupq_n_f64(0.5 + 0.01 * j);
#define N64_STEP(j) a##j = vfmaq_f64(c, a##j, m);
#define N64_FIRST(j) fold[j] = vgetq_lane_f64(a##j, 0);
DEFINE_FMA(fma_neon_f64, NEON, CHAINS_24, 24, float64x2_t, vdupq_n_f64, N64, N64_FIRST)

#else

#define PLAIN
#define SAME(v) (v)
#define P32_DECLARE(j) float a##j = 0.5f + 0.01f * j;
#define P32_STEP(j) a##j = a##j * m + c;
#define P_FIRST(j) fold[j] = a##j;
DEFINE_FMA(fma_plain_f32, PLAIN, CHAINS_12, 12, float, SAME, P32, P_FIRST)
#define P64_DECLARE(j) double a##j = 0.5 + 0.01 * j;
#define P64_STEP(j) a##j = a##j * m + c;
DEFINE_FMA(fma_plain_f64, PLAIN, CHAINS_12, 12, double, SAME, P64, P_FIRST)

#endif

// Reading: 8 vectors a turn, each loaded into a register by an empty volatile asm that asks for it there.
#define LANES_8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define DEFINE_READ(NAME, TARGET, VECTOR, LOAD)                                               \
  TARGET __attribute__((noinline)) void NAME(const void* buffer, size_t bytes, long passes) { \
    const VECTOR* const end = static_cast<const VECTOR*>(buffer) + bytes / sizeof(VECTOR);    \
    for (long pass = 0; pass < passes; ++pass) {                                              \
      for (const VECTOR* p = static_cast<const VECTOR*>(buffer); p != end; p += 8) {          \
        LANES_8(LOAD)                                                                         \
      }                                                                                       \
    }                                                                                         \
  }

#if PROBE_X86
#define Z_LOAD(j) __asm__ volatile("" ::"v"(p[j]));
DEFINE_READ(read_zmm, ZMM, __m512i, Z_LOAD)
#define X_LOAD(j) __asm__ volatile("" ::"x"(p[j]));
DEFINE_READ(read_ymm, YMM, __m256i, X_LOAD)
DEFINE_READ(read_xmm, XMM, __m128i, X_LOAD)
#elif defined(__aarch64__)
#define N_LOAD(j) __asm__ volatile("" ::"w"(p[j]));
DEFINE_READ(read_neon, NEON, uint64x2_t, N_LOAD)
#else
#define P_LOAD(j) __asm__ volatile("" ::"r"(p[j]));
DEFINE_READ(read_plain, PLAIN, size_t, P_LOAD)
#endif

// Multiply-adds as a product has them: 24 sums, and for every term 6 operands and 4 vectors of weights from memory, the weights
// 256 KiB and so from the second-level cache. What no product without the matrix unit is faster than.
struct Fed {
  void (*run)(const float* operands, const float* weights, long terms, float* out);
  int lanes, sums;
};
constexpr size_t kFedBytes = size_t(256) << 10;

#if PROBE_X86
#define FED_ROWS(X, v) X(0, v) X(1, v) X(2, v) X(3, v) X(4, v) X(5, v)
#define DEFINE_FED(NAME, TARGET, VECTOR, LANES, COLUMNS, LOAD, STORE, SPLAT, FMA)                                  \
  TARGET __attribute__((noinline)) void NAME(const float* a, const float* w, long terms, float* out) {             \
    VECTOR sum[6][COLUMNS];                                                                                        \
    _Pragma("GCC unroll 6") for (int r = 0; r < 6; ++r) {                                                          \
      _Pragma("GCC unroll 4") for (int v = 0; v < COLUMNS; ++v) sum[r][v] = SPLAT(0);                              \
    }                                                                                                              \
    for (long k = 0; k < terms; ++k, w += COLUMNS * LANES) {                                                       \
      VECTOR b[COLUMNS];                                                                                           \
      _Pragma("GCC unroll 4") for (int v = 0; v < COLUMNS; ++v) b[v] = LOAD(w + v * LANES);                        \
      _Pragma("GCC unroll 6") for (int r = 0; r < 6; ++r) {                                                        \
        const VECTOR x = SPLAT(a[r * 1024 + (k & 511)]);                                                           \
        _Pragma("GCC unroll 4") for (int v = 0; v < COLUMNS; ++v) sum[r][v] = FMA(x, b[v], sum[r][v]);             \
      }                                                                                                            \
    }                                                                                                              \
    _Pragma("GCC unroll 6") for (int r = 0; r < 6; ++r) {                                                          \
      _Pragma("GCC unroll 4") for (int v = 0; v < COLUMNS; ++v) STORE(out + (r * COLUMNS + v) * LANES, sum[r][v]); \
    }                                                                                                              \
  }
DEFINE_FED(fed_zmm, ZMM, __m512, 16, 4, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps)
DEFINE_FED(fed_ymm, YMM, __m256, 8, 2, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps)

// The matrix unit: 16 x 16 sums of 32 terms each an instruction, four chains.
void matrix_turns(long turns) {
  struct alignas(64) {
    unsigned char palette = 1, start_row = 0, reserved[14] = {};
    unsigned short bytes[16] = {};
    unsigned char rows[16] = {};
  } config;
  for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
  __asm__ volatile("ldtilecfg %0" ::"m"(config));  // and zeroes the tiles
  for (long turn = 0; turn < turns; ++turn) {
    __asm__ volatile(
        "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\ttdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
        "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\ttdpbf16ps %%tmm7, %%tmm5, %%tmm3" ::);
  }
  __asm__ volatile("tilerelease" ::);
}
double matrix(long turns) {
  matrix_turns(turns);
  return 0;
}
bool has(const char* feature) {
  const std::string features = std::string(" ") + rnnk_cpu_features() + " ";
  return features.find(std::string(" ") + feature + " ") != std::string::npos;
}
#endif

Fed choose_fed(bool narrow) {
#if PROBE_X86
  if (has("avx512f") && !narrow) return {fed_zmm, 16, 24};
  if (has("avx2") && has("fma")) return {fed_ymm, 8, 12};
#endif
  (void)narrow;
  return {nullptr, 0, 0};
}

Fma choose_fma(int dtype) {
#if PROBE_X86
  const bool zmm = has("avx512f");
  const bool ymm = has("avx2") && has("fma");
  switch (dtype) {
    case 0: return zmm ? Fma{fma_zmm_f32, 12 * 32} : ymm ? Fma{fma_ymm_f32, 12 * 16} : Fma{fma_xmm_f32, 12 * 8};
    case 1: return zmm ? Fma{fma_zmm_f64, 12 * 16} : ymm ? Fma{fma_ymm_f64, 12 * 8} : Fma{fma_xmm_f64, 12 * 4};
    case 3: return ymm ? Fma{fma_ymm_f32, 12 * 16} : Fma{nullptr, 0};
    default:
      if (has("amx_bf16")) return {matrix, 4 * 16 * 16 * 32 * 2};
      return zmm && has("avx512bf16") ? Fma{fma_zmm_bf16, 24 * 64} : Fma{nullptr, 0};
  }
#elif defined(__aarch64__)
  return dtype == 0 ? Fma{fma_neon_f32, 24 * 8} : dtype == 1 ? Fma{fma_neon_f64, 24 * 4} : Fma{nullptr, 0};
#else
  return dtype == 0 ? Fma{fma_plain_f32, 24} : dtype == 1 ? Fma{fma_plain_f64, 24} : Fma{nullptr, 0};
#endif
}

Read choose_read() {
#if PROBE_X86
  if (has("avx512f")) return {read_zmm};
  if (has("avx2") && has("fma")) return {read_ymm};
  return {read_xmm};
#elif defined(__aarch64__)
  return {read_neon};
#else
  return {read_plain};
#endif
}

// A page-aligned buffer, in huge pages where the system gives them, as rnnkern keeps its packed weights.
class Buffer {
 public:
  explicit Buffer(size_t bytes) {
    const size_t huge = size_t(1) << 21, align = bytes >= huge ? huge : 4096;
    bytes_ = (bytes + align - 1) / align * align;
    data_ = rnnk::allocate_aligned(align, bytes_);
    if (!data_) throw std::bad_alloc();
    if (align == huge) rnnk::prefer_huge_pages(data_, bytes_);  // refused: small pages, still a valid measurement
    std::memset(data_, 1, bytes_);
  }
  ~Buffer() { rnnk::free_aligned(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  const void* data() const { return data_; }

 private:
  void* data_;
  size_t bytes_;
};

// Runs prepare(i) then turn(i) on `threads` threads, turn() again and again from a common start until `seconds` are over;
// returns the sum over threads of (units of work done / own time), or RNNK_PROBE_FAILED.
template <class Body>
double run_threads(int threads, double seconds, Body body) {
  std::atomic<int> waiting{threads};
  std::atomic<bool> failed{false};
  std::vector<double> rates(static_cast<size_t>(threads), 0.0);
  auto work = [&](size_t index) {
    try {
      auto turn = body();  // allocates and touches what it needs on its own thread
      const auto warm = Clock::now();
      while (seconds_since(warm) < seconds / 4) turn();  // clocks up, caches filled
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      double done = 0;
      const auto start = Clock::now();
      double elapsed;
      do {
        done += turn();
        elapsed = seconds_since(start);
      } while (elapsed < seconds);
      rates[index] = done / elapsed;
    } catch (...) {  // no memory: the others must not wait for this thread
      failed = true;
      waiting.fetch_sub(1);
    }
  };
  std::vector<std::thread> others;
  try {
    others.reserve(static_cast<size_t>(threads));
    for (size_t index = 1; index < static_cast<size_t>(threads); ++index) others.emplace_back(work, index);
  } catch (...) {  // no more threads: count the missing ones out, and wait for those that run
    failed = true;
    waiting.fetch_sub(threads - 1 - static_cast<int>(others.size()));
  }
  work(0);
  for (auto& other : others) other.join();
  if (failed) return RNNK_PROBE_FAILED;
  double sum = 0;
  for (double rate : rates) sum += rate;
  return sum;
}

bool valid(int threads, double seconds) { return threads >= 1 && threads <= 4096 && seconds > 0 && seconds <= 60; }

std::atomic<double> sink;  // where results go that only exist to be computed

}  // namespace

extern "C" double rnnk_probe_fma(int threads, int dtype, double seconds) {
  if (!valid(threads, seconds) || dtype < 0 || dtype > 3) return RNNK_PROBE_INVALID;
  const Fma fma = choose_fma(dtype);
  if (!fma.run) return 0.0;
  try {
    const double rate = run_threads(threads, seconds, [fma] {
      return [fma] {
        constexpr long turns = 4096;  // about 10 us: the clock's cost does not show
        sink.store(fma.run(turns), std::memory_order_relaxed);
        return turns * fma.flops;
      };
    });
    return rate < 0 ? rate : rate * 1e-9;
  } catch (...) {
    return RNNK_PROBE_FAILED;
  }
}

extern "C" double rnnk_probe_fed(int threads, int narrow, double seconds) {
  if (!valid(threads, seconds)) return RNNK_PROBE_INVALID;
  const Fed fed = choose_fed(narrow != 0);
  if (!fed.run) return 0.0;
  try {
    const double rate = run_threads(threads, seconds, [fed] {
      auto operands = std::make_shared<Buffer>(6 * 1024 * sizeof(float)), weights = std::make_shared<Buffer>(kFedBytes);
      return [fed, operands, weights] {
        alignas(64) float out[24 * 16];
        const int columns = fed.sums / 6;
        const long terms = static_cast<long>(kFedBytes / (sizeof(float) * fed.lanes * columns));
        fed.run(static_cast<const float*>(operands->data()), static_cast<const float*>(weights->data()), terms, out);
        sink.store(out[0], std::memory_order_relaxed);
        return 2.0 * static_cast<double>(terms) * fed.sums * fed.lanes;
      };
    });
    return rate < 0 ? rate : rate * 1e-9;
  } catch (...) {
    return RNNK_PROBE_FAILED;
  }
}

extern "C" double rnnk_probe_read(int threads, size_t bytes_per_thread, double seconds) {
  constexpr size_t block = 1024;  // 8 vectors of the widest kind, twice
  if (!valid(threads, seconds) || bytes_per_thread > (size_t(1) << 40)) return RNNK_PROBE_INVALID;
  const size_t bytes = bytes_per_thread < block ? block : bytes_per_thread / block * block;
  const Read read = choose_read();
  try {
    const double rate = run_threads(threads, seconds, [bytes, read] {
      auto buffer = std::make_shared<Buffer>(bytes);
      // At least 4 MiB (10-40 us) between two looks at the clock.
      const long passes = static_cast<long>((size_t(4) << 20) / bytes) + 1;
      return [buffer, bytes, passes, read] {
        read.pass(buffer->data(), bytes, passes);
        return static_cast<double>(bytes) * static_cast<double>(passes);
      };
    });
    return rate < 0 ? rate : rate * 1e-9;
  } catch (...) {
    return RNNK_PROBE_FAILED;
  }
}
