// A build without CUDA: there are no devices, and every question about one says so.
#include "core/device.h"

namespace rnnk {

int device_count() { return 0; }
const char* devices_unavailable() {
  return "this build of rnnkern has no CUDA kernels (RNNKERN_CUDA was OFF, or AUTO found no nvcc or no GPU)";
}
void check_device(int, const char* what) { fail(RNNK_NOT_SUPPORTED, "%s: %s", what, devices_unavailable()); }
rnnk_device_info device_info(int) { fail(RNNK_NOT_SUPPORTED, "device_index: %s", devices_unavailable()); }
void report_faults(int) {}
void set_cublaslt(const char*) {}
void* const* fork_streams(int, void*, int) { fail(RNNK_NOT_SUPPORTED, "device: %s", devices_unavailable()); }
void order_streams(int, void*, void*) {}
void join_streams(int, void*, int) {}
void device_add(const Problem&, const LayerCall&, const rnnk_tensor&) {
  fail(RNNK_NOT_SUPPORTED, "device: %s", devices_unavailable());
}
void device_window_lengths(const Problem&, const LayerCall&, int64_t, int64_t, int64_t*) {
  fail(RNNK_NOT_SUPPORTED, "device: %s", devices_unavailable());
}
void device_lengths(int, const rnnk_args&, int64_t*) { fail(RNNK_NOT_SUPPORTED, "device: %s", devices_unavailable()); }
void device_marks(int, const MarksCopy&, uint8_t*, void*) { fail(RNNK_NOT_SUPPORTED, "device: %s", devices_unavailable()); }
void device_dropout(const rnnk_dropout_args&) { fail(RNNK_NOT_SUPPORTED, "device: %s", devices_unavailable()); }

}  // namespace rnnk
