// Memory for what the binding owns: packed weights, tapes, workspaces.
//
// Blocks of megabytes come zeroed from the system page by page, which cost a third of a training forward of bfloat16 and half
// of a packing; so freed ones are kept for the next that fits, up to a share of the machine's memory.
#pragma once
#include <cstddef>
#include <utility>

namespace rnnk_py {

// Gives back to the system what is kept; the bytes it held.
size_t empty_cache();
size_t cached_bytes();

// 64-byte aligned, grows and never shrinks. What it holds after growing is undefined.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) { reserve(size); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();
  void reserve(size_t size);  // throws std::bad_alloc
  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void swap(Buffer& other) noexcept;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// One per thread, kept between calls while small: a call then allocates nothing. Larger ones go back at once.
class Workspace {
 public:
  explicit Workspace(size_t size) { kept().reserve(size); }
  ~Workspace() {
    if (kept().size() > kKeep) const Buffer freed = std::move(kept());
  }
  void* data() const { return kept().data(); }
  size_t size() const { return kept().size(); }

 private:
  static constexpr size_t kKeep = size_t{64} << 20;
  static Buffer& kept() {
    static thread_local Buffer buffer;
    return buffer;
  }
};

}  // namespace rnnk_py
