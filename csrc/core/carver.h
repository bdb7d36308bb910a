// Pieces of one allocation, each on a cache line of its own.
#pragma once
#include <cstdint>

namespace rnnk {
namespace {  // the kernels' files are compiled for different CPUs: nothing here may be shared between them

constexpr int64_t line(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// A cursor over `base`; with a null base it only measures.
class Carver {
 public:
  explicit Carver(const void* base) : base_(static_cast<char*>(const_cast<void*>(base))) {}
  template <class T = char>
  T* take(int64_t count) {
    char* here = base_ ? base_ + used_ : nullptr;
    used_ += line(count * static_cast<int64_t>(sizeof(T)));
    return reinterpret_cast<T*>(here);
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace
}  // namespace rnnk
