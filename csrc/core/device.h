// What the rest of the library asks of GPUs. Builds without CUDA have no_device.cpp behind it, others cuda/device.cpp.
#pragma once
#include "core/problem.h"

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
// dx of `args` plus `more`, [T, B, I] in the type of computation, for every step that is.
void device_add(const Problem& problem, const rnnk_args& args, const rnnk_tensor& more);
// A stream of this thread's for work beside that of `stream`, which follows what is on `stream` now; from join_stream() on
// `stream` follows what is on it in turn. One at a time.
void* fork_stream(int index, void* stream);
void join_stream(int index, void* stream, void* side);

}  // namespace rnnk
