// The host's side of a GPU: launches, clears, copies, facts of a device. Compiled with RNNK_SIMT the same names come from
// tests/cuda/simt/runtime.h, which runs kernels on the host. Every call is asynchronous, on the stream it is given; nothing here
// synchronises or allocates once a device's facts are known.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/problem.h"

namespace rnnk {
namespace gpu {

struct Launch {
  int64_t grid_x, grid_y;  // grid_y at most 65535
  int threads;
  int64_t shared;            // bytes of dynamic shared memory
  void* stream;              // cudaStream_t
  int cluster = 1;           // blocks of a cluster, along x
  bool cooperative = false;  // all blocks run at once, or the launch is refused
};

struct Facts {
  char name[64];
  int capability;  // 90 for 9.0
  int multiprocessors;
  int64_t shared_per_block;  // bytes, opted in
  int64_t memory;            // bytes
  bool has_code;             // this build has kernels for it
};

// Devices that can be used, 0 where there is no driver; `why` (static) says why there are none.
int device_count(const char** why);
// Throws Failure when there is no such device.
const Facts& facts(int index);

// "" or why this build's kernels do not run on a device.
inline const char* no_code(const Facts& f) {
  return f.has_code ? ""
                    : "this build has no kernels for this GPU (they are made for compute capability 8.0 and later, or for "
                      "another GPU)";
}

// The device of a call is the current one while this lives.
class OnDevice {
 public:
  explicit OnDevice(int index);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  void* before_ = nullptr;  // CUcontext
};

void fill(void* to, int byte, size_t bytes, void* stream);
inline void clear(void* to, size_t bytes, void* stream) { fill(to, 0, bytes, stream); }
void copy(void* to, const void* from, size_t bytes, void* stream);  // within one device
void launch_raw(const void* kernel, const Launch&, void* params, const char* name);
// How many of a launch's clusters can run at the same time on the current device, by their size, one block a multiprocessor;
// 0 where none can.
int64_t clusters_at_once(const void* kernel, const Launch&);

// As core/device.h says.
void* const* fork_streams(int index, void* stream, int count);
void order_streams(int index, void* first, void* then);
void join_streams(int index, void* stream, int count);

// A word that kernels of this device can write (by its address there) and the host reads without waiting; 0 until one does.
// Lives as long as the process.
uint64_t* fault_word(int index);
uint64_t* fault_word_on_device(int index);

}  // namespace gpu
}  // namespace rnnk

#if defined(RNNK_SIMT)
#include "simt/runtime.h"
#else
namespace rnnk {
namespace gpu {
// kernel(params), for every thread of the grid. Throws Failure, naming the kernel, where CUDA refuses.
template <class Params>
void launch(void (*kernel)(Params), const Launch& how, Params params, const char* name) {
  if (how.grid_x > 0 && how.grid_y > 0) launch_raw(reinterpret_cast<const void*>(kernel), how, &params, name);
}
}  // namespace gpu
}  // namespace rnnk
#endif
