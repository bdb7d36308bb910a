// What this CPU can do, as the bits of Feature. __builtin_cpu_supports also asks whether the OS saves the registers.
#include <unistd.h>

#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include "core/device.h"
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

// Linux gives a process the matrix unit's 8 KiB of registers when it asks for them, once for all its threads.
bool amx_bf16() {
#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24;
  constexpr long request_permission = 0x1023, tile_data = 18;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & bf16) || !(d & tile)) return false;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

struct Cpu {
  Named features[11] = {
      RNNK_X86(kAvx2, "avx2"),
      RNNK_X86(kFma, "fma"),
      RNNK_X86(kF16c, "f16c"),
      RNNK_X86(kAvx512f, "avx512f"),
      RNNK_X86(kAvx512bw, "avx512bw"),
      RNNK_X86(kAvx512vl, "avx512vl"),
      RNNK_X86(kAvx512dq, "avx512dq"),
      RNNK_X86(kAvx512bf16, "avx512bf16"),
      {kAmxBf16, "amx_bf16", amx_bf16()},
#if defined(__x86_64__)
      {kAmd, "amd", __builtin_cpu_is("amd") != 0},
#else
      {kAmd, "amd", false},
#endif
#if defined(__aarch64__)
      {kNeon, "neon", true},  // part of the base architecture
#else
      {kNeon, "neon", false},
#endif
  };
  uint32_t bits = 0;
  std::string names;
  // Sentences for every set of missing features a kernel may meet are built once, so that they can be returned as static text
  // and nothing can fail later.
  std::string missing[1 << 10];

  Cpu() {
    for (const auto& f : features) {
      if (!f.present) continue;
      bits |= f.bit;
      if (!names.empty()) names += ' ';
      names += f.name;
    }
    for (uint32_t set = 1; set < 1 << 10; ++set) {
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
  if (kernel.device == RNNK_CUDA) return devices_unavailable();
  const uint32_t lacking = kernel.features & ~cpu().bits;
  return lacking ? cpu().missing[lacking].c_str() : "";
}

}  // namespace rnnk
