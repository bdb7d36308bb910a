// What this CPU can do, as the bits of Feature. __builtin_cpu_supports also asks whether the OS saves the registers.
#include <unistd.h>

#include <string>

#include "core/kernel.h"

namespace rnnk {
namespace {

struct Named {
  uint32_t bit;
  const char* name;
  bool present;
};

#if defined(__x86_64__)
#define RNNK_X86(bit, name) {bit, name, __builtin_cpu_supports(name) != 0}
#else
#define RNNK_X86(bit, name) {bit, name, false}
#endif

struct Cpu {
  Named features[8] = {
      RNNK_X86(kAvx2, "avx2"),         RNNK_X86(kFma, "fma"),           RNNK_X86(kF16c, "f16c"),
      RNNK_X86(kAvx512f, "avx512f"),   RNNK_X86(kAvx512bw, "avx512bw"), RNNK_X86(kAvx512vl, "avx512vl"),
      RNNK_X86(kAvx512dq, "avx512dq"),
#if defined(__aarch64__)
      {kNeon, "neon", true},  // part of the base architecture
#else
      {kNeon, "neon", false},
#endif
  };
  uint32_t bits = 0;
  std::string names;
  // Sentences for every set of missing features a kernel may meet are built once, so that they can be returned as static text.
  std::string missing[256];

  Cpu() {
    for (const auto& f : features) {
      if (!f.present) continue;
      bits |= f.bit;
      if (!names.empty()) names += ' ';
      names += f.name;
    }
    for (uint32_t set = 1; set < 256; ++set) {
      missing[set] = "this CPU lacks";
      for (const auto& f : features) {
        if (set & f.bit) missing[set].append(" ").append(f.name);
      }
    }
  }
};

const Cpu& cpu() {
  static const Cpu instance;
  return instance;
}

}  // namespace

uint32_t cpu_features() { return cpu().bits; }
const char* cpu_feature_names() { return cpu().names.c_str(); }

int64_t near_bytes() {
  static const int64_t bytes = [] {
    long l2 = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return l2 > 0 ? int64_t{l2} / 2 : int64_t{512} << 10;
  }();
  return bytes;
}

const char* unavailable(const Kernel& kernel) {
  const uint32_t lacking = kernel.features & ~cpu().bits;
  return lacking ? cpu().missing[lacking].c_str() : "";
}

}  // namespace rnnk
