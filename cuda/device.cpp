// What the rest of the library asks of GPUs (core/device.h), and the one kernel that belongs to no strategy: dropout.
#include "core/device.h"

#include <cstring>
#include <string>

#include "cuda/blas.h"
#include "cuda/fault.h"
#include "cuda/runtime.h"

namespace rnnk {

int device_count() {
  const char* why = "";
  return gpu::device_count(&why);
}

const char* devices_unavailable() {
  const char* why = "";
  return gpu::device_count(&why) > 0 ? "" : why;
}

void check_device(int index, const char* what) {
  const int count = device_count();
  if (count == 0) fail(RNNK_NOT_SUPPORTED, "%s: there is no GPU: %s", what, devices_unavailable());
  if (index < 0 || index >= count) {
    fail(RNNK_INVALID_VALUE, "%s: expected 0 to %d (there are %d GPUs), got %d", what, count - 1, count, index);
  }
  gpu::facts(index);  // allocates; the calls that may be captured in a graph must not
}

rnnk_device_info device_info(int index) {
  const gpu::Facts& facts = gpu::facts(index);
  rnnk_device_info info{};
  info.capability = facts.capability, info.multiprocessors = facts.multiprocessors;
  info.shared_per_block = facts.shared_per_block, info.memory = facts.memory;
  std::memcpy(info.name, facts.name, sizeof info.name);
  return info;
}

void report_faults(int index) {
  uint64_t* const word = gpu::fault_word(index);
  const uint64_t row = __atomic_exchange_n(word, uint64_t{0}, __ATOMIC_RELAXED);
  if (row & gpu::kWaited) {
    const auto fault = gpu::WaitFault::from(row);
    const std::string whom = fault.whom == gpu::kAnyPeer ? "its peers" : "block " + std::to_string(fault.whom);
    fail(RNNK_RUNTIME_ERROR,
         "in an earlier call on GPU %d block %d of a team gave up waiting for %s in step %lld (RNNKERN_GPU_WAIT_SECONDS is "
         "how "
         "long a block waits); that call's results are NaN from there on",
         index, fault.who, whom.c_str(), static_cast<long long>(fault.step));
  }
  if (row) {
    fail(RNNK_INVALID_VALUE, "lengths[%llu]: an earlier call on GPU %d had one outside [0, seq_len]; it was clamped",
         static_cast<unsigned long long>(row - 1), index);
  }
}

void* const* fork_streams(int index, void* stream, int count) { return gpu::fork_streams(index, stream, count); }
void order_streams(int index, void* first, void* then) { gpu::order_streams(index, first, then); }
void join_streams(int index, void* stream, int count) { gpu::join_streams(index, stream, count); }

void set_cublaslt(const char* path) { gpu::set_blas_path(path); }

}  // namespace rnnk
