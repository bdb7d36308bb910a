// What this CPU can do, as the bits of Feature: what the instruction cpuid reports, where the operating system also saves the
// registers (xgetbv). __builtin_cpu_supports is of no use: it needs the compiler's own runtime, and zig's answers 0 to everything.
#include <cstring>
#include <map>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/device.h"
#include "core/kernel.h"
#include "core/os.h"

namespace rnnk {
namespace {

struct Named {
  uint32_t bit;
  const char* name;
  bool present;
};

#if defined(__x86_64__)
struct X86 {
  unsigned one_c = 0, seven_b = 0, seven_c = 0, seven_d = 0, seven_one_a = 0;
  uint64_t saved = 0;  // XCR0: bit 1 SSE, 2 AVX, 5 to 7 AVX-512, 17 and 18 AMX
  bool amd = false;

  X86() {
    unsigned most, a, b, c, d, vendor[3];
    __cpuid(0, most, vendor[0], vendor[2], vendor[1]);
    amd = std::memcmp(vendor, "AuthenticAMD", sizeof vendor) == 0;
    __cpuid(1, a, b, one_c, d);
    if (has(one_c, 27)) {  // OSXSAVE: xgetbv is there
      unsigned low, high;
      __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
      saved = uint64_t{high} << 32 | low;
    }
    if (most < 7) return;
    __cpuid_count(7, 0, a, seven_b, seven_c, seven_d);
    if (a >= 1) __cpuid_count(7, 1, seven_one_a, b, c, d);
  }
  static bool has(unsigned word, int bit) { return word >> bit & 1; }
  bool saves(uint64_t states) const { return (saved & states) == states; }
  bool avx(unsigned word, int bit) const { return saves(0x6) && has(word, bit); }
  bool avx512(unsigned word, int bit) const { return saves(0xe6) && has(word, bit); }
  bool amx(int bit) const { return saves(0x60000) && has(seven_d, 24) && has(seven_d, bit) && allow_matrix_unit(); }
};
#else
struct X86 {  // of another architecture
  static constexpr unsigned one_c = 0, seven_b = 0, seven_c = 0, seven_one_a = 0;
  static constexpr bool amd = false;
  static bool avx(unsigned, int) { return false; }
  static bool avx512(unsigned, int) { return false; }
  static bool amx(int) { return false; }
};
#endif

#if defined(__aarch64__)
constexpr bool kHasNeon = true;  // part of the base architecture
#else
constexpr bool kHasNeon = false;
#endif

struct Cpu {
  const X86 x86{};  // GCC wants it where X86 is empty
  const Named features[15] = {
      {kAvx2, "avx2", x86.avx(x86.seven_b, 5)},
      {kFma, "fma", x86.avx(x86.one_c, 12)},
      {kF16c, "f16c", x86.avx(x86.one_c, 29)},
      {kAvx512f, "avx512f", x86.avx512(x86.seven_b, 16)},
      {kAvx512bw, "avx512bw", x86.avx512(x86.seven_b, 30)},
      {kAvx512vl, "avx512vl", x86.avx512(x86.seven_b, 31)},
      {kAvx512dq, "avx512dq", x86.avx512(x86.seven_b, 17)},
      {kAvx512bf16, "avx512bf16", x86.avx512(x86.seven_one_a, 5)},
      {kAvx512vnni, "avx512_vnni", x86.avx512(x86.seven_c, 11)},
      {kAvxVnni, "avx_vnni", x86.avx(x86.seven_one_a, 4)},
      {kAmxBf16, "amx_bf16", x86.amx(22)},
      {kAmxInt8, "amx_int8", x86.amx(25)},
      {kAmd, "amd", x86.amd},
      {kNeon, "neon", kHasNeon},
      {kDotProduct, "dot_product", kHasNeon && has_dot_product()},
  };
  uint32_t bits = 0;
  std::string names;
  // Sentences for what each kernel lacks are built once, so that they can be returned as static text and nothing can fail later.
  std::map<uint32_t, std::string> missing;

  Cpu() {
    for (const auto& f : features) {
      if (!f.present) continue;
      bits |= f.bit;
      if (!names.empty()) names += ' ';
      names += f.name;
    }
    for (auto k = kKernels; *k; ++k) {
      std::string& sentence = missing[(*k)->features & ~bits];
      sentence = "this CPU lacks";
      for (const auto& f : features) {
        if ((*k)->features & ~bits & f.bit) sentence.append(" ").append(f.name);
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
    const int64_t l2 = level2_bytes();
    return l2 > 0 ? l2 / 2 : int64_t{512} << 10;
  }();
  return bytes;
}

const char* unavailable(const Kernel& kernel) {
  if (kernel.device == RNNK_CUDA) return devices_unavailable();
  const uint32_t lacking = kernel.features & ~cpu().bits;
  return lacking ? cpu().missing.at(lacking).c_str() : "";
}

}  // namespace rnnk
