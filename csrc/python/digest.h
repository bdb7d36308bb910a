// A digest of 128 bits of the weights of a call, at about the speed of reading them: whether they are those that a pack was made of.
// The loop is that of XXH3 (Y. Collet, xxHash, 2020): eight lanes of 64 bits that add products of halves, mixed after each 4 KiB.
// It tells changes apart, not attacks.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "rnnkern/rnnkern.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rnnk_py {
namespace {

constexpr uint64_t avalanche(uint64_t x) {  // splitmix64 (G. Steele et al., 2014)
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

class Digest {
 public:
  using Value = std::array<uint64_t, 2>;

  // Whether this CPU reads weights for a digest as fast as for anything else, which takes AVX2.
  static bool fast() {
    static const bool has = std::strstr(rnnk_cpu_features(), "avx2") != nullptr;
    return has;
  }

  // An array; where one ends and the next begins counts, too.
  void add(const void* data, size_t size) {
    mix_lanes(kKeys.data(), size + 1);
    const auto* from = static_cast<const char*>(data);
    const size_t whole = size / kStripe, rest = size % kStripe;
    stripes(from, whole);
    if (rest == 0) return;
    char tail[kStripe] = {};
    std::memcpy(tail, from + whole * kStripe, rest);
    stripes(tail, 1);
  }
  Value value() const {
    Value out{};
    for (size_t half = 0; half < 2; ++half) {
      uint64_t sum = stripes_ * 0x9e3779b97f4a7c15u + half;
      for (size_t i = 0; i < kLanes; i += 2) {
        sum += folded(lanes_[i] ^ kKeys[half * 11 + i], lanes_[i + 1] ^ kKeys[half * 11 + i + 1]);
      }
      out[half] = avalanche(sum);
    }
    return out;
  }

 private:
  static constexpr size_t kLanes = 8, kStripe = 64, kStripesOfABlock = 64;
  struct alignas(64) Keys : std::array<uint64_t, kLanes*(kStripesOfABlock + 1)> {};  // of each stripe, and of the mixing
  static constexpr auto kKeys = [] {
    Keys keys{};
    for (size_t i = 0; i < keys.size(); ++i) keys[i] = avalanche((i + 1) * 0x9e3779b97f4a7c15u);
    return keys;
  }();

  static uint64_t folded(uint64_t a, uint64_t b) {
    __extension__ using Wide = unsigned __int128;
    const auto product = static_cast<Wide>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

  // Each stripe of a block has keys of its own.
  void stripes(const char* from, size_t count) {
    while (count > 0) {
      const size_t place = stripes_ % kStripesOfABlock, here = std::min(count, kStripesOfABlock - place);
#if defined(__x86_64__)
      if (fast()) add_wide(from, here, kKeys.data() + place * kLanes, lanes_);
      else add_stripes(from, here, kKeys.data() + place * kLanes, lanes_);
#else
      add_stripes(from, here, kKeys.data() + place * kLanes, lanes_);
#endif
      from += here * kStripe, count -= here, stripes_ += here;
      if (place + here == kStripesOfABlock) mix_lanes(kKeys.data() + kStripesOfABlock * kLanes, 0);
    }
  }
  static void add_stripes(const char* from, size_t count, const uint64_t* keys, uint64_t* lanes) {
    for (size_t s = 0; s < count; ++s, from += kStripe, keys += kLanes) {
      uint64_t data[kLanes];
      std::memcpy(data, from, sizeof data);
      for (size_t i = 0; i < kLanes; ++i) {
        const uint64_t keyed = data[i] ^ keys[i];
        lanes[i] += data[i ^ 1] + (keyed & 0xffffffffu) * (keyed >> 32);
      }
    }
  }
#if defined(__x86_64__)
  __attribute__((target("avx2"))) static void add_wide(const char* from, size_t count, const uint64_t* keys,
                                                       uint64_t* lanes) {
    auto* const to = reinterpret_cast<__m256i*>(lanes);
    __m256i sum[2] = {_mm256_loadu_si256(to), _mm256_loadu_si256(to + 1)};
    for (size_t s = 0; s < count; ++s, from += kStripe, keys += kLanes) {
      for (int i = 0; i < 2; ++i) {
        const __m256i data = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from) + i);
        const __m256i keyed = _mm256_xor_si256(data, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys) + i));
        const __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
        sum[i] = _mm256_add_epi64(sum[i], _mm256_add_epi64(_mm256_shuffle_epi32(data, 0x4e), product));
      }
    }
    for (int i = 0; i < 2; ++i) _mm256_storeu_si256(to + i, sum[i]);
  }
#endif
  void mix_lanes(const uint64_t* keys, uint64_t more) {
    for (size_t i = 0; i < kLanes; ++i) lanes_[i] = ((lanes_[i] ^ lanes_[i] >> 47) ^ keys[i]) * 0x9e3779b1u + more;
  }

  uint64_t lanes_[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8};
  uint64_t stripes_ = 0;
};

}  // namespace
}  // namespace rnnk_py
