// The GIL given up around work and taken back, also while the interpreter ends.
//
// CPython before 3.14 ends every other thread that asks for the GIL while the interpreter ends, by pthread_exit. On Linux that
// unwinds the C++ stack: destructors would drop Python objects without the GIL, and one that is noexcept would end the process.
// So such a thread stays where it is until the process has ended, which is what CPython 3.14 makes it do.
#pragma once
#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace rnnk_py {
namespace {

// take(): asks for the GIL, and throws nothing of its own.
template <class Take>
auto taken(const Take& take) noexcept {
  try {
    return take();
  } catch (...) {  // the unwinding of pthread_exit, which must not leave this block
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    taken([this] { PyEval_RestoreThread(state_); });
  }
  WithoutGil(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// For a thread that may have no GIL, and may come when there is no interpreter any more: then it is false.
class WithGil {
 public:
  WithGil() : here_(Py_IsInitialized() != 0) {
    if (here_) state_ = taken([] { return PyGILState_Ensure(); });
  }
  ~WithGil() {
    if (here_) PyGILState_Release(state_);
  }
  WithGil(const WithGil&) = delete;
  explicit operator bool() const { return here_; }

 private:
  bool here_;
  PyGILState_STATE state_{};
};

}  // namespace
}  // namespace rnnk_py
