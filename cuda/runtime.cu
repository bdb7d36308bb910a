#include "cuda/runtime.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

namespace rnnk {
namespace gpu {
namespace {

constexpr int kMostDevices = 64;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it would be reported to the next caller too
  fail(error == cudaErrorMemoryAllocation ? RNNK_OUT_OF_MEMORY : RNNK_RUNTIME_ERROR, "%s: %s (%s)", what,
       cudaGetErrorString(error), cudaGetErrorName(error));
}

struct Count {
  int count = 0;
  const char* why = "";
  Count() {
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return;
    cudaGetLastError();
    count = 0;
    why = error == cudaSuccess || error == cudaErrorNoDevice ? "the driver knows of none"
          : error == cudaErrorInitializationError ? "CUDA does not work in a forked child of a process that used it"
          : error == cudaErrorInsufficientDriver  ? "the NVIDIA driver is missing, or older than CUDA 13 needs"
                                                  : cudaGetErrorString(error);
  }
};

__global__ void probe_kernel() {}  // compiled for what all kernels are compiled for

struct Device {
  std::once_flag once;
  Facts facts{};
  uint64_t *host_word = nullptr, *device_word = nullptr;
};
Device devices[kMostDevices];

Device& device(int index) {
  const char* why = "";
  const int count = device_count(&why);
  if (index < 0 || index >= count || index >= kMostDevices) {
    fail(RNNK_INVALID_VALUE, "device_index: expected 0 to %d, got %d", count - 1, index);
  }
  Device& d = devices[index];
  std::call_once(d.once, [&] {
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
    std::memcpy(d.facts.name, p.name, sizeof d.facts.name - 1);
    d.facts.capability = p.major * 10 + p.minor;
    d.facts.multiprocessors = p.multiProcessorCount;
    d.facts.shared_per_block = static_cast<int64_t>(p.sharedMemPerBlockOptin);
    d.facts.memory = static_cast<int64_t>(p.totalGlobalMem);
    const OnDevice here(index);
    cudaFuncAttributes any{};
    d.facts.has_code = cudaFuncGetAttributes(&any, probe_kernel) == cudaSuccess;
    cudaGetLastError();
    check(cudaHostAlloc(reinterpret_cast<void**>(&d.host_word), sizeof *d.host_word,
                        cudaHostAllocMapped | cudaHostAllocPortable),
          "cudaHostAlloc");
    *d.host_word = 0;
    check(cudaHostGetDevicePointer(reinterpret_cast<void**>(&d.device_word), d.host_word, 0), "cudaHostGetDevicePointer");
  });
  return d;
}

// The driver's own calls: cudaSetDevice, to go back, would make a context on a device that had none.
struct Contexts {
  int (*get)(void**) = nullptr;  // cuCtxGetCurrent
  int (*set)(void*) = nullptr;   // cuCtxSetCurrent
  Contexts() {
    find("cuCtxGetCurrent", reinterpret_cast<void**>(&get));
    find("cuCtxSetCurrent", reinterpret_cast<void**>(&set));
  }
  static void find(const char* name, void** to) {
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion(name, to, 12000, cudaEnableDefault, &found), name);
    if (found != cudaDriverEntryPointSuccess) fail(RNNK_RUNTIME_ERROR, "the driver has no %s", name);
  }
};
const Contexts& contexts() {
  static const Contexts found;
  return found;
}

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

int device_count(const char** why) {
  static const Count found;
  *why = found.why;
  return found.count;
}

const Facts& facts(int index) { return device(index).facts; }
uint64_t* fault_word(int index) { return device(index).host_word; }
uint64_t* fault_word_on_device(int index) { return device(index).device_word; }

OnDevice::OnDevice(int index) {
  if (const int status = contexts().get(&before_)) fail(RNNK_RUNTIME_ERROR, "cuCtxGetCurrent: CUDA error %d", status);
  check(cudaSetDevice(index), "cudaSetDevice");
}
OnDevice::~OnDevice() { contexts().set(before_); }

void fill(void* to, int byte, size_t bytes, void* stream) {
  if (bytes > 0) check(cudaMemsetAsync(to, byte, bytes, stream_of(stream)), "cudaMemsetAsync");
}
void copy(void* to, const void* from, size_t bytes, void* stream) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(stream)), "cudaMemcpyAsync");
}

namespace {

// A launch as CUDA wants it; the struct refers to itself, so it stays where it is.
struct Config {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2]{};
  Config(const void* kernel, const Launch& how, const char* name) {
    if (how.shared > 48 * 1024) {
      // The limit is the kernel's, not the launch's: always the device's most, or another thread's launch would lower it.
      int index = 0;
      check(cudaGetDevice(&index), "cudaGetDevice");
      const int most = static_cast<int>(device(index).facts.shared_per_block);
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), name);
    }
    config.gridDim = dim3(static_cast<unsigned>(how.grid_x), static_cast<unsigned>(how.grid_y));
    config.blockDim = dim3(static_cast<unsigned>(how.threads));
    config.dynamicSmemBytes = static_cast<size_t>(how.shared);
    config.stream = stream_of(how.stream);
    config.attrs = attributes;
    if (how.cluster > 1) {
      if (how.cluster > 8) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), name);
      attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
      attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(how.cluster), 1, 1};
    }
    if (how.cooperative) {
      attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
      attributes[config.numAttrs++].val.cooperative = 1;
    }
  }
  Config(const Config&) = delete;
};

}  // namespace

void launch_raw(const void* kernel, const Launch& how, void* params, const char* name) {
  if (how.grid_x > 0x7fffffff || how.grid_y > 65535) {
    fail(RNNK_NOT_SUPPORTED, "%s: a grid of %lld x %lld blocks is more than a GPU takes", name,
         static_cast<long long>(how.grid_x), static_cast<long long>(how.grid_y));
  }
  void* arguments[] = {params};
  const Config whole(kernel, how, name);
  check(cudaLaunchKernelExC(&whole.config, kernel, arguments), name);
}

namespace {

// Streams and the event that orders them. Never destroyed, since CUDA may be gone by then: those of a thread that has ended serve
// the next.
struct Sides {
  std::vector<cudaStream_t> streams;
  cudaEvent_t event = nullptr;
};
std::mutex spare_lock;
std::vector<Sides> spare[kMostDevices];

struct SidesOfThread {
  Sides of[kMostDevices];
  std::vector<void*> forked;
  ~SidesOfThread() {
    const std::lock_guard<std::mutex> hold(spare_lock);
    for (int i = 0; i < kMostDevices; ++i) {
      if (of[i].event) spare[i].push_back(of[i]);
    }
  }
};
thread_local SidesOfThread own_sides;

Sides& sides_of(int index, int count) {
  device(index);  // or it names the number that is wrong
  Sides& sides = own_sides.of[index];
  if (!sides.event) {
    const std::lock_guard<std::mutex> hold(spare_lock);
    if (!spare[index].empty()) {
      sides = spare[index].back();
      spare[index].pop_back();
    }
  }
  if (!sides.event) check(cudaEventCreateWithFlags(&sides.event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  while (static_cast<int>(sides.streams.size()) < count) {
    cudaStream_t fresh = nullptr;
    check(cudaStreamCreateWithFlags(&fresh, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    sides.streams.push_back(fresh);
  }
  return sides;
}

}  // namespace

// An event serves again at once: a stream that waits for it waits for what it had recorded then.
void order_streams(int index, void* first, void* then) {
  const OnDevice here(index);
  const cudaEvent_t event = sides_of(index, 0).event;
  check(cudaEventRecord(event, stream_of(first)), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream_of(then), event, 0), "cudaStreamWaitEvent");
}

namespace {
// All that can be joined; what CUDA said of the first that could not, or null.
const char* end_sides(int index, void* stream, int count) {
  const OnDevice here(index);
  const cudaEvent_t event = sides_of(index, 0).event;
  const char* why = nullptr;
  for (int i = 0; i < count; ++i) {
    cudaError_t error = cudaEventRecord(event, stream_of(own_sides.forked[static_cast<size_t>(i)]));
    if (error == cudaSuccess) error = cudaStreamWaitEvent(stream_of(stream), event, 0);
    if (error != cudaSuccess && !why) why = cudaGetErrorString(error);
    if (error != cudaSuccess) cudaGetLastError();
  }
  return why;
}
}  // namespace

void* const* fork_streams(int index, void* stream, int count) {
  const OnDevice here(index);
  const Sides& sides = sides_of(index, count);
  own_sides.forked.assign(sides.streams.begin(), sides.streams.begin() + count);
  try {
    for (void* side : own_sides.forked) order_streams(index, stream, side);
  } catch (const Failure&) {
    end_sides(index, stream, count);
    throw;
  }
  return own_sides.forked.data();
}

void join_streams(int index, void* stream, int count) {
  if (const char* const why = end_sides(index, stream, count)) fail(RNNK_RUNTIME_ERROR, "join_streams: %s", why);
}

int64_t clusters_at_once(const void* kernel, const Launch& how) {
  static std::mutex lock;
  static std::map<std::tuple<int, const void*, int>, int64_t> known;
  int index = 0;
  check(cudaGetDevice(&index), "cudaGetDevice");
  if (how.cluster <= 1) return device(index).facts.multiprocessors;
  const std::lock_guard<std::mutex> hold(lock);
  const auto key = std::make_tuple(index, kernel, how.cluster);
  if (const auto found = known.find(key); found != known.end()) return found->second;
  int count = 0;
  cudaError_t status = cudaSuccess;
  if (how.cluster > 8) status = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (status == cudaSuccess) {
    const Config whole(kernel, how, "clusters_at_once");
    status = cudaOccupancyMaxActiveClusters(&count, kernel, &whole.config);
  }
  cudaGetLastError();
  // Where clusters of this size cannot be, CUDA answers with an error rather than with 0. Another error is not the kernel's.
  constexpr cudaError_t never[] = {cudaErrorInvalidValue, cudaErrorInvalidConfiguration, cudaErrorInvalidClusterSize,
                                   cudaErrorNotSupported};
  if (std::find(std::begin(never), std::end(never), status) != std::end(never)) count = 0;
  else check(status, "clusters_at_once");
  known.emplace(key, count);
  return count;
}

}  // namespace gpu
}  // namespace rnnk
