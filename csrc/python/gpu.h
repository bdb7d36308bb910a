// What every call that reaches CUDA passes first: CUDA does not survive a fork, so a child of a process that used it is told so
// before anything in it can hang.
#pragma once
#include <pybind11/pybind11.h>

#include <atomic>

#include "core/os.h"
#include "rnnkern/rnnkern.h"

namespace rnnk_py {
namespace {

std::atomic<bool> g_cuda_used{false}, g_cuda_lost{false};

// RuntimeError in a forked child of a process that had got this far.
inline void reach_cuda() {
  static const bool registered = [] {
    rnnk::around_fork(nullptr, nullptr, [] { g_cuda_lost = g_cuda_used.load(); });
    return true;
  }();
  (void)registered;
  if (g_cuda_lost) {
    throw std::runtime_error(
        "this process was forked from one that had used CUDA, which does not work in such a child; start it with "
        "multiprocessing's \"spawn\" or \"forkserver\", or use CUDA in the child alone");
  }
  g_cuda_used = true;
}

inline void check(rnnk_status status) {
  if (status == RNNK_OK) return;
  const char* text = rnnk_last_error();
  PyObject* type = PyExc_RuntimeError;
  if (status == RNNK_INVALID_VALUE) type = PyExc_ValueError;
  if (status == RNNK_INVALID_TYPE) type = PyExc_TypeError;
  if (status == RNNK_NOT_SUPPORTED) type = PyExc_NotImplementedError;
  if (status == RNNK_OUT_OF_MEMORY) type = PyExc_MemoryError;
  PyErr_SetString(type, text);
  throw pybind11::error_already_set();
}

// How many there are. Finding out that there are some starts the driver; finding none leaves nothing that a fork could break.
inline int32_t device_count() {
  const bool used = g_cuda_used;
  reach_cuda();
  const int32_t count = rnnk_device_count();
  if (count == 0) g_cuda_used = used;
  return count;
}

inline pybind11::dict device_info(int32_t index) {
  reach_cuda();
  rnnk_device_info info{};
  info.struct_size = sizeof info;
  check(rnnk_get_device_info(index, &info));
  pybind11::dict out;
  out["name"] = info.name;
  out["capability"] = info.capability;
  out["multiprocessors"] = info.multiprocessors;
  out["shared_per_block"] = info.shared_per_block;
  out["memory"] = info.memory;
  return out;
}

inline void device_check(int32_t index) {
  reach_cuda();
  check(rnnk_device_check(index));
}

}  // namespace
}  // namespace rnnk_py
