// What every measurement of latencies.cu shares: loads and stores of a given strength, spins that end, the clocks read inside
// a kernel, and on the host repeated launches of which the median is printed as one line of JSON.
//
// Times are %globaltimer nanoseconds over some thousand hops of one launch, so its coarse tick does not show; %clock64 over
// the same span gives the SM's clock, which is printed beside every figure. A launch that does not end is given up by the host.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

enum Fault : unsigned { kTimedOut = 1, kWrongData = 2 };

// Where a kernel writes. nanoseconds, cycles: of thread 0 of block 0. fault: 0, or what went wrong.
struct Report {
  unsigned long long* nanoseconds;
  long long* cycles;
  unsigned* fault;
};

__device__ __forceinline__ unsigned long long now() {
  unsigned long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)::"memory");
  return t;
}

__device__ __forceinline__ long long cycle_now() {
  long long t;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(t)::"memory");
  return t;
}

// The measured part of a kernel; every spin inside it ends by the deadline.
struct Span {
  unsigned long long start;
  long long cycle;
  __device__ Span() : start(now()), cycle(cycle_now()) {}
  __device__ unsigned long long deadline() const { return start + 2000000000ull; }  // 2 s
  __device__ void end(const Report& r) const {
    const long long cycles = cycle_now() - cycle;
    *r.nanoseconds = now() - start;
    *r.cycles = cycles;
  }
};

// Polls until ready() holds. False, and the fault is reported, once the deadline has passed; the clock is read rarely, since
// that takes as long as a poll.
template <class Ready>
__device__ __forceinline__ bool spin(Ready ready, unsigned long long deadline, unsigned* fault) {
  for (unsigned polls = 1; !ready(); ++polls)
    if ((polls & 255) == 0 && now() > deadline) {
      atomicOr(fault, kTimedOut);
      return false;
    }
  return true;
}

__device__ __forceinline__ uint4 load_relaxed(const uint4* at) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at)
               : "memory");
  return v;
}
__device__ __forceinline__ void store_relaxed(uint4* at, uint4 v) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ unsigned load_acquire(const unsigned* at) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
  return v;
}
__device__ __forceinline__ void store_release(unsigned* at, unsigned v) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
__device__ __forceinline__ void add_release(unsigned* at, unsigned v) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}

// ---- host ----------------------------------------------------------------------------------------------------------------

#define CHECK(call) check((call), #call)
inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  std::printf("{\"name\": \"error\", \"error\": \"%s: %s\"}\n", what, cudaGetErrorString(code));
  std::fflush(stdout);
  std::_Exit(1);
}

template <class T>
T* device_array(size_t count) {
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, count * sizeof(T)));
  CHECK(cudaMemset(memory, 0, count * sizeof(T)));
  return static_cast<T*>(memory);
}

class Bench {
 public:
  Bench() {
    report_ = {device_array<unsigned long long>(1), device_array<long long>(1), device_array<unsigned>(1)};
    CHECK(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
  }
  const Report& report() const { return report_; }
  bool faults() const { return faults_; }

  // Runs launch() (which may first clear memory on the stream 0) nine times after a warm-up and prints the median.
  // figure(nanoseconds, cycles): the value in `unit`. A fault is printed in place of the value, and that measurement ends.
  template <class Go, class Figure>
  void run(const char* name, const char* what, const char* unit, Go launch, Figure figure) {
    std::vector<double> values, clocks;
    for (int repeat = 0; repeat < 10; ++repeat) {
      CHECK(cudaMemset(report_.fault, 0, sizeof(unsigned)));
      const cudaError_t refused = launch();
      if (refused != cudaSuccess) {
        (void)cudaGetLastError();  // a refused launch is a result; it must not show up at the next check
        return failed(name, what, cudaGetErrorString(refused));
      }
      wait(name, what);
      unsigned fault;
      unsigned long long nanoseconds;
      long long cycles;
      CHECK(cudaMemcpy(&fault, report_.fault, sizeof fault, cudaMemcpyDeviceToHost));
      CHECK(cudaMemcpy(&nanoseconds, report_.nanoseconds, sizeof nanoseconds, cudaMemcpyDeviceToHost));
      CHECK(cudaMemcpy(&cycles, report_.cycles, sizeof cycles, cudaMemcpyDeviceToHost));
      if (fault) return failed(name, what, fault & kWrongData ? "wrong data arrived" : "a spin reached its limit of 2 s");
      if (repeat == 0) continue;
      values.push_back(figure(static_cast<double>(nanoseconds), static_cast<double>(cycles)));
      clocks.push_back(1e3 * static_cast<double>(cycles) / static_cast<double>(nanoseconds));
    }
    std::sort(values.begin(), values.end());
    std::sort(clocks.begin(), clocks.end());
    std::printf(
        "{\"name\": \"%s\", \"case\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"min\": %.6g, \"max\": %.6g, "
        "\"repeats\": %d, \"sm_mhz\": %.0f}\n",
        name, what, values[values.size() / 2], unit, values.front(), values.back(), static_cast<int>(values.size()),
        clocks[clocks.size() / 2]);
    std::fflush(stdout);
  }

  // A figure that needs no clock.
  void state(const char* name, const char* what, const char* unit, double value) {
    std::printf("{\"name\": \"%s\", \"case\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"}\n", name, what, value, unit);
    std::fflush(stdout);
  }
  void failed(const char* name, const char* what, const char* why) {
    faults_ = true;
    std::printf("{\"name\": \"%s\", \"case\": \"%s\", \"error\": \"%s\"}\n", name, what, why);
    std::fflush(stdout);
  }

 private:
  // A kernel that neither ends nor faults within 15 s ends the program: nothing can be measured after it.
  void wait(const char* name, const char* what) {
    CHECK(cudaEventRecord(done_));
    const auto start = std::chrono::steady_clock::now();
    for (cudaError_t state; (state = cudaEventQuery(done_)) != cudaSuccess;) {
      if (state != cudaErrorNotReady) CHECK(state);
      if (std::chrono::steady_clock::now() - start > std::chrono::seconds(15)) {
        failed(name, what, "the kernel did not end within 15 s");
        std::_Exit(3);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    (void)cudaGetLastError();  // "not ready" is remembered as an error
  }

  Report report_;
  cudaEvent_t done_;
  bool faults_ = false;
};
