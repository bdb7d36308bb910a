// Every operation gives what the PTX manual says, and kernels that use them as they should are right in every order.
#include "cases.h"

namespace selftest {
namespace {

// mma: a warp's fragments against a plain product of small integers, which every type holds.
struct Product {
  const float *a, *b;  // [16, K], [K, 8]
  float* d;            // [16, 8], added to
};
uint16_t bf16(float f) { return float_to_bf16(f); }
uint16_t half(float f) { return gpu::to_half(f); }

template <int K, uint16_t (*narrow)(float), void (*mma)(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2])>
RNNK_GLOBAL void multiply(Product p) {
  const int g = gpu::lane() / 4, t = gpu::lane() % 4;
  float d[4];
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) d[i] = p.d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  if constexpr (K == 16) {  // element i of the manual's lists: two in a register
    const auto pair = [](float low, float high) { return narrow(low) | uint32_t{narrow(high)} << 16; };
    for (int i = 0; i < 8; i += 2) {
      const float* at = p.a + (i < 2 || (i >= 4 && i < 6) ? g : g + 8) * K + 2 * t + (i >= 4 ? 8 : 0);
      a[i / 2] = pair(at[0], at[1]);
    }
    for (int i = 0; i < 4; i += 2) {
      const float* at = p.b + (2 * t + (i >= 2 ? 8 : 0)) * 8 + g;
      b[i / 2] = pair(at[0], at[8]);
    }
  } else {  // bits below those of tf32 must not matter
    for (int i = 0; i < 4; ++i) a[i] = gpu::to_tf32(p.a[(i % 2 ? g + 8 : g) * K + (i >= 2 ? t + 4 : t)]) | 0xfff;
    for (int i = 0; i < 2; ++i) b[i] = gpu::to_tf32(p.b[(i ? t + 4 : t) * 8 + g]) | 0xfff;
  }
  mma(d, a, b);
  for (int i = 0; i < 4; ++i) p.d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

void check_product(int K, void (*kernel)(Product)) {
  std::vector<float> a(16 * K), b(K * 8), d(16 * 8), wanted(16 * 8);
  for (int i = 0; i < 16 * K; ++i) a[i] = static_cast<float>(i * 7 % 23 - 11);
  for (int i = 0; i < K * 8; ++i) b[i] = static_cast<float>(i * 5 % 19 - 9);
  for (int i = 0; i < 16 * 8; ++i) {
    d[i] = wanted[i] = static_cast<float>(i);
    for (int k = 0; k < K; ++k) wanted[i] += a[i / 8 * K + k] * b[k * 8 + i % 8];
  }
  gpu::launch(kernel, {1, 1, 32, 0, nullptr}, Product{a.data(), b.data(), d.data()}, "multiply");
  expect(d == wanted, "the product");
}
void mma_bf16() { check_product(16, multiply<16, bf16, gpu::mma_bf16>); }
void mma_f16() { check_product(16, multiply<16, half, gpu::mma_f16>); }
void mma_tf32() { check_product(8, multiply<8, bf16, gpu::mma_tf32>); }

void conversions() {
  expect(gpu::to_half(65504.f) == 0x7bff && gpu::from_half(0x0001) == 5.9604644775390625e-8f, "half");
  expect(gpu::to_tf32(1.f + 0x1p-11f) == float_to_bits(1.f + 0x1p-10f), "a tie rounds away from zero");
  expect(gpu::to_tf32(-1.f - 0x1p-12f) == float_to_bits(-1.f), "to the nearest");
  expect(gpu::fused(1.f + 0x1p-12f, 1.f - 0x1p-12f, -1.f) == -0x1p-24f, "one rounding");
}

struct Out {
  uint32_t* out;
};

RNNK_GLOBAL void matrices(Out p) {
  auto* elements = shared_as<uint16_t>();  // 32 rows of 8, their addresses in reverse
  for (int i = 0; i < 8; ++i) elements[gpu::lane() * 8 + i] = static_cast<uint16_t>(gpu::lane() * 8 + i);
  gpu::sync_warp();
  uint32_t r[4];
  gpu::ldmatrix_x4(r, elements + (31 - gpu::lane()) * 8);
  for (int i = 0; i < 4; ++i) p.out[4 * gpu::lane() + i] = r[i];
}
void ldmatrix() {
  std::vector<uint32_t> out(128);
  const auto correct = [&] {
    gpu::launch(matrices, {1, 1, 32, 512, nullptr}, Out{out.data()}, "matrices");
    bool same = true;
    for (uint32_t i = 0; i < 128; ++i) {
      const uint32_t lane = i / 4, matrix = i % 4, row = 31 - (8 * matrix + lane / 4), element = row * 8 + 2 * (lane % 4);
      same = same && out[i] == (element | (element + 1) << 16);
    }
    return same;
  };
  expect(wrong(correct) == 0, "the elements");
}

RNNK_GLOBAL void exchange(Out p) {
  double sum = gpu::lane() < 3 ? 0x1p-40 + gpu::thread() : gpu::thread();
  for (int mask = 16; mask > 0; mask /= 2) sum += gpu::shuffle_xor(sum, mask);
  const float next = gpu::shuffle_xor(static_cast<float>(gpu::thread()), 1);
  p.out[gpu::thread()] = (sum == 3 * 0x1p-40 + 496 + 1024 * gpu::warp()) && next == static_cast<float>(gpu::thread() ^ 1);
}
void shuffle() {
  std::vector<uint32_t> out(96);
  const auto correct = [&] {
    out.assign(96, 0);
    gpu::launch(exchange, {1, 1, 96, 0, nullptr}, Out{out.data()}, "exchange");
    return out == std::vector<uint32_t>(96, 1);
  };
  expect(wrong(correct) == 0, "the sums");
}

// The sum of each block's numbers, brought in by copy_async two groups ahead.
struct Sums {
  const float* in;  // [blocks, 3, threads]
  float* out;
};
RNNK_GLOBAL void reduce(Sums p) {
  const int n = gpu::threads(), t = gpu::thread();
  const float* in = p.in + (gpu::block_y() * gpu::blocks_x() + gpu::block_x()) * 3 * n;
  auto* part = shared_as<float>();
  const auto fetch = [&](int i) {
    if (t < n / 4) gpu::copy_async(part + i % 2 * n + 4 * t, in + i * n + 4 * t);
    gpu::copy_commit();
  };
  fetch(0);
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    if (i + 1 < 3) fetch(i + 1);
    else gpu::copy_commit();
    gpu::copy_wait<1>();
    gpu::sync_block();
    sum += part[i % 2 * n + (t + 37) % n];
    gpu::sync_block();
  }
  part[t] = sum;
  for (int half = n / 2; half > 0; half /= 2) {
    gpu::sync_block();
    if (t < half) part[t] += part[t + half];
  }
  if (t == 0) p.out[gpu::block_y() * gpu::blocks_x() + gpu::block_x()] = part[0];
}
void reduction() {
  constexpr int blocks = 6, threads = 128;
  std::vector<float> in(blocks * 3 * threads), out, wanted(blocks);
  for (size_t i = 0; i < in.size(); ++i) wanted[i / (3 * threads)] += in[i] = static_cast<float>(i % 97);
  const auto correct = [&] {
    out.assign(blocks, 0);
    gpu::launch(reduce, {3, 2, threads, 2 * threads * 4, nullptr}, Sums{in.data(), out.data()}, "reduce");
    return out == wanted;
  };
  expect(wrong(correct) == 0, "the sums");
}

// Every block of a cluster pushes its number to all, several times over; two buffers, each with an mbarrier.
struct Steps {
  uint32_t* out;
  int steps;
};
RNNK_GLOBAL void push(Steps p) {
  const int size = gpu::cluster_size(), rank = gpu::cluster_rank(), t = gpu::thread();
  auto* barriers = shared_as<uint64_t>();
  auto* quads = shared_as<gpu::Quad>(128);  // [2, size], then a word for each block [2, size]
  auto* words = reinterpret_cast<uint32_t*>(quads + 2 * size);
  if (t == 0) {
    for (int i = 0; i < 2; ++i) gpu::mbarrier_init(barriers + i, 1);
  }
  gpu::cluster_arrive_release();
  gpu::cluster_wait_acquire();
  uint32_t sum = 1;
  for (int step = 0; step < p.steps; ++step) {
    const int buffer = step % 2;
    if (t == 0) gpu::mbarrier_expect(barriers + buffer, static_cast<uint32_t>(size) * 20);
    if (t < size) {
      uint64_t* arrives = gpu::map_shared(barriers + buffer, t);
      gpu::store_async(gpu::map_shared(quads + buffer * size + rank, t), gpu::Quad{{sum, sum + 1, sum + 2, sum + 3}},
                       arrives);
      gpu::store_async(gpu::map_shared(words + buffer * size + rank, t), sum + static_cast<uint32_t>(rank), arrives);
    }
    while (!gpu::mbarrier_try_wait(barriers + buffer, static_cast<uint32_t>(step / 2 % 2))) {
    }
    uint32_t next = 0;
    for (int i = 0; i < size; ++i) next = next * 3 + quads[buffer * size + i].word[3] + words[buffer * size + i];
    sum = next;
    gpu::sync_block();
  }
  gpu::cluster_arrive_release();
  gpu::cluster_wait_acquire();
  if (t == 0) p.out[gpu::block_x()] = sum;
}
void cluster_push() {
  constexpr int size = 4, steps = 9;
  uint32_t sum = 1;
  for (int step = 0; step < steps; ++step) {
    uint32_t next = 0;
    for (uint32_t i = 0; i < size; ++i) next = next * 3 + sum + 3 + sum + i;
    sum = next;
  }
  std::vector<uint32_t> out;
  const auto correct = [&] {
    out.assign(2 * size, 0);
    gpu::launch(push, {2 * size, 1, 64, 128 + 2 * size * 20, nullptr, size}, Steps{out.data(), steps}, "push");
    return out == std::vector<uint32_t>(2 * size, sum);
  };
  expect(wrong(correct) == 0, "the blocks' sums");
}

// A step's numbers go round the blocks: published, then a flag; or polled for themselves.
struct Ring {
  uint32_t *data, *flags, *out;  // [steps, blocks, 4 threads], [blocks, 32], [blocks, threads]
  int steps;
};
template <bool by_warp>
RNNK_GLOBAL void flag_ring(Ring p) {
  const int64_t blocks = gpu::blocks_x(), block = gpu::block_x();
  const int t = gpu::thread();
  uint32_t value = static_cast<uint32_t>(100 * block + t);
  for (int step = 0; step < p.steps; ++step) {
    uint32_t* data = p.data + step * blocks * gpu::threads();
    gpu::publish(data + block * gpu::threads() + t, value);
    const int flag = by_warp ? gpu::warp() : 0;
    if (by_warp) gpu::sync_warp();
    else gpu::sync_block();
    if (by_warp ? gpu::lane() == 0 : t == 0)
      gpu::store_release(p.flags + block * 32 + flag, static_cast<uint32_t>(step + 1));
    const int64_t other = (block + 1) % blocks;
    while (gpu::load_acquire(p.flags + other * 32 + flag) < static_cast<uint32_t>(step + 1)) gpu::poll_pause();
    value = data[other * gpu::threads() + t] + 1;
  }
  p.out[block * gpu::threads() + t] = value;
}
RNNK_GLOBAL void data_ring(Ring p) {  // no number is all ones
  const int64_t blocks = gpu::blocks_x(), block = gpu::block_x();
  const int t = gpu::thread();
  uint32_t value = static_cast<uint32_t>(100 * block + t);
  for (int step = 0; step < p.steps; ++step) {
    auto* data = reinterpret_cast<gpu::Quad*>(p.data) + step * blocks * gpu::threads();
    gpu::store_relaxed(data + block * gpu::threads() + t, gpu::Quad{{value, value, value, value}});
    const gpu::Quad* from = data + (block + 1) % blocks * gpu::threads() + t;
    gpu::Quad got = gpu::load_relaxed(from);
    for (; got.word[0] == ~0u || got.word[1] == ~0u || got.word[2] == ~0u || got.word[3] == ~0u;
         got = gpu::load_relaxed(from)) {
      gpu::poll_pause();
    }
    value = got.word[step % 4] + 1;
  }
  p.out[block * gpu::threads() + t] = value;
}
void check_ring(void (*kernel)(Ring)) {
  constexpr int blocks = 5, threads = 64, steps = 8;
  std::vector<uint32_t> data, flags, out, wanted;
  for (int i = 0; i < blocks * threads; ++i) wanted.push_back((i / threads + steps) % blocks * 100 + i % threads + steps);
  const auto correct = [&] {
    data.assign(steps * blocks * threads * 4, ~0u);
    flags.assign(blocks * 32, 0);
    out.assign(blocks * threads, 0);
    gpu::launch(kernel, {blocks, 1, threads, 0, nullptr, 1, true}, Ring{data.data(), flags.data(), out.data(), steps},
                "ring");
    return out == wanted;
  };
  expect(wrong(correct) == 0, "the numbers that went round");
}
void flags_of_blocks() { check_ring(flag_ring<false>); }
void flags_of_warps() { check_ring(flag_ring<true>); }
void data_as_flags() { check_ring(data_ring); }

// What a thread of a block published before a barrier, another one reads by load_relaxed; half words and pairs of words too.
RNNK_GLOBAL void own_stores(Out p) {
  const int t = gpu::thread();
  auto* halves = reinterpret_cast<uint16_t*>(p.out);
  auto* pairs = reinterpret_cast<uint64_t*>(p.out + 64);
  gpu::publish(halves + 2 * t + 1, static_cast<uint16_t>(t + 1));
  gpu::publish(pairs + t, uint64_t{7} << 32);
  gpu::publish(pairs + t, uint64_t(t) << 32 | 1u);
  const bool own = gpu::load_relaxed(pairs + t) == (uint64_t(t) << 32 | 1u) &&
                   gpu::load_relaxed(p.out + t) >> 16 == static_cast<uint32_t>(t + 1);
  gpu::sync_block();
  const uint32_t other = static_cast<uint32_t>(t + 40) % 64, word = gpu::load_relaxed(p.out + other);
  p.out[192 + t] = own && word >> 16 == other + 1 && gpu::load_relaxed(pairs + other) >> 32 == other;
}
void own_stores_are_seen() {
  std::vector<uint32_t> out(256);
  const auto correct = [&] {
    out.assign(256, 0);
    gpu::launch(own_stores, {1, 1, 64, 0, nullptr}, Out{out.data()}, "own_stores");
    for (uint32_t i = 0; i < 64; ++i) {
      if (out[192 + i] != 1 || out[i] >> 16 != i + 1 || out[64 + 2 * i] != 1) return false;
    }
    return true;
  };
  expect(wrong(correct) == 0, "the words");
}

}  // namespace

const std::vector<Case>& right() {
  static const std::vector<Case> cases{CASE(mma_bf16),       CASE(mma_f16),       CASE(mma_tf32),
                                       CASE(conversions),    CASE(ldmatrix),      CASE(shuffle),
                                       CASE(reduction),      CASE(cluster_push),  CASE(flags_of_blocks),
                                       CASE(flags_of_warps), CASE(data_as_flags), CASE(own_stores_are_seen)};
  return cases;
}

}  // namespace selftest
