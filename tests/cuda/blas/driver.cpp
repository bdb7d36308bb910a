// Runs gpu::multiply() over the products of a file, for tests/cuda/test_blas.py (which writes it: `Case`, then the bytes of a, b and
// c, and reads one answer each: a status, a sentence, c). Device memory is the host's. With RNNK_SIMT it is the plain twin that
// runs; without it cuda/blas.cpp, compiled with dlopen renamed so that no cuBLASLt of this machine is found, only those the
// environment names: LOADER is what the loader's path would lead to, LOADED a file to load beforehand, GIVEN the path to set.
#include <atomic>
#include <barrier>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "cuda/blas.h"
#if !defined(RNNK_SIMT)
#include <dlfcn.h>
#undef dlopen
#include "cuda/runtime.h"
#endif

using namespace rnnk;

void rnnk::fail(rnnk_status code, const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  throw Failure{code, text};
}

#if !defined(RNNK_SIMT)
extern "C" void* dlopen(const char*, int) noexcept;
extern "C" void* test_dlopen(const char* name, int flags) noexcept {
  if (std::strchr(name, '/') || flags & RTLD_NOLOAD) return dlopen(name, flags);
  const char* folder = std::getenv("LOADER");
  return dlopen((std::string(folder ? folder : "/nowhere") + "/" + name).c_str(), flags);
}

static thread_local int current = -1;
gpu::OnDevice::OnDevice(int index) : before_(reinterpret_cast<void*>(intptr_t{current})) { current = index; }
gpu::OnDevice::~OnDevice() { current = static_cast<int>(reinterpret_cast<intptr_t>(before_)); }
void gpu::fill(void* to, int byte, size_t bytes, void*) {
  if (current < 0) fail(RNNK_RUNTIME_ERROR, "fill: no device is current");
  std::memset(to, byte, bytes);
}

// A variable of the fake, null where another library or none is open.
template <class T>
static const T* of_fake(const char* name) {
  void* fake = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_NOLOAD);
  return fake ? static_cast<const T*>(dlsym(fake, name)) : nullptr;
}
#endif

struct Case {
  int64_t precision, m, n, k, lda, a_transposed, ldb, b_transposed, ldc, accumulate, batch, a_stride, b_stride, c_stride;
  int64_t a_bytes, b_bytes, c_bytes, shift;  // shift: bytes from a 256-byte boundary to a, b and c
  int64_t workspace_bytes, workspace_shift, device;
};

struct Block {  // 256-byte aligned, then shifted
  std::vector<char> bytes;
  char* data;
  Block(int64_t size, int64_t shift) : bytes(size + 1024) {
    data = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(bytes.data()) + 255) / 256 * 256) + shift;
  }
};

static void answer(FILE* out, int64_t status, const std::string& text) {
  const int64_t head[2] = {status, static_cast<int64_t>(text.size())};
  std::fwrite(head, 1, sizeof head, out);
  std::fwrite(text.data(), 1, text.size(), out);
}

static void run(FILE* out, const Case& x, FILE* in) {
  Block a(x.a_bytes, x.shift), b(x.b_bytes, x.shift), c(x.c_bytes, x.shift), workspace(x.workspace_bytes, x.workspace_shift);
  for (const auto& [block, size] : {std::pair{&a, x.a_bytes}, {&b, x.b_bytes}, {&c, x.c_bytes}}) {
    if (std::fread(block->data, 1, size, in) != static_cast<size_t>(size)) std::exit(3);
  }
  const gpu::MatrixProduct p{x.m,
                             x.n,
                             x.k,
                             {a.data, x.lda, x.a_transposed != 0},
                             {b.data, x.ldb, x.b_transposed != 0},
                             c.data,
                             x.ldc,
                             x.accumulate != 0,
                             x.batch,
                             x.a_stride,
                             x.b_stride,
                             x.c_stride,
                             static_cast<gpu::Precision>(x.precision)};
  try {
    gpu::multiply(p, workspace.data, x.workspace_bytes, static_cast<int>(x.device), nullptr);
    answer(out, RNNK_OK, "");
  } catch (const Failure& failure) {
    std::string text = failure.text;
#if !defined(RNNK_SIMT)
    if (const auto why = of_fake<const char*>("refused")) text += std::string(" (the fake: ") + *why + ")";
#endif
    answer(out, failure.code, text);
  }
  std::fwrite(c.data, 1, x.c_bytes, out);
}

// Eight threads at once, each through all of 512 shapes; returns how many sums are wrong.
static int64_t race() {
  std::barrier start(8);
  std::atomic<int64_t> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      const std::vector<float> a(64, 1.f), b(64, float(t));
      start.arrive_and_wait();
      for (int i = 0; i < 512; ++i) {
        const int64_t m = 1 + i % 8, n = 1 + i / 8 % 8, k = 1 + i / 64;
        std::vector<float> c(m * n);
        gpu::multiply(
            {m, n, k, {a.data(), k, false}, {b.data(), n, false}, c.data(), n, false, 1, 0, 0, 0, gpu::Precision::f32},
            nullptr, 0, 0, nullptr);
        for (float v : c) wrong += v != float(k * t);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return wrong;
}

int main(int argc, char** argv) {
#if !defined(RNNK_SIMT)
  if (const char* first = std::getenv("LOADED"); first && !dlopen(first, RTLD_NOW)) return std::puts(dlerror()), 2;
  if (const char* given = std::getenv("GIVEN")) gpu::set_blas_path(given);
#endif
  std::puts(gpu::blas_unavailable());
  if (argc == 2) std::printf("%lld wrong\n", static_cast<long long>(race()));
  if (argc == 3) {
    FILE *in = std::fopen(argv[1], "rb"), *out = std::fopen(argv[2], "wb");
    if (!in || !out) return 2;
    for (Case x; std::fread(&x, sizeof x, 1, in) == 1;) run(out, x, in);
    std::fclose(out);
  }
#if !defined(RNNK_SIMT)
  for (const char* name : {"handles", "searches", "living"}) {
    if (const int* number = of_fake<int>(name)) std::printf("%s %d\n", name, *number);
  }
#endif
  return 0;
}
