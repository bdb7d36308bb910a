// What the rest of the library asks of GPUs. Builds without CUDA have no_device.cpp behind it, others cuda/device.cpp.
#pragma once
#include "rnnkern/rnnkern.h"

namespace rnnk {

int device_count();
const char* devices_unavailable();  // static; "" where there are some
// Throws Failure naming `what` unless there is a GPU of this number.
void check_device(int index, const char* what);
rnnk_device_info device_info(int index);
// Throws Failure, once, with what kernels on this GPU found wrong since the last time.
void report_faults(int index);
void set_cublaslt(const char* path);
void device_dropout(const rnnk_dropout_args& args);

}  // namespace rnnk
