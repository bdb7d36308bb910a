#include "python/memory.h"

#include <mutex>
#include <new>
#include <utility>

#include "core/os.h"

namespace rnnk_py {
namespace {

constexpr size_t kHuge = size_t{2} << 20, kLeast = size_t{1} << 20;  // of a block that is kept

// A kept block begins with its place in the list, so that keeping one allocates nothing and cannot fail.
struct Block {
  Block* older;
  size_t size;
};

struct Cache {
  std::mutex mutex;
  Block* newest = nullptr;
  size_t bytes = 0;
  const size_t most = rnnk::memory_limit() / 16;

  void free_after(Block** link) {
    Block* block = *link;
    *link = block->older;
    bytes -= block->size;
    rnnk::free_aligned(block);
  }
  // Gives back blocks of this many bytes at most, the oldest first.
  void make_room(size_t size) {
    for (Block** oldest = &newest; oldest;) {
      oldest = nullptr;
      for (Block** link = &newest; *link; link = &(*link)->older) {
        if ((*link)->size <= size) oldest = link;
      }
      if (!oldest) return;
      size -= (*oldest)->size;
      free_after(oldest);
    }
  }
  // The oldest first, until at most this much is kept.
  void trim(size_t keep) {
    while (bytes > keep) {
      Block** link = &newest;
      while ((*link)->older) link = &(*link)->older;
      free_after(link);
    }
  }
};

// Lives as long as the process: buffers of other static objects may be freed after any destructor here.
Cache* g_cache = new Cache;
// A child of fork() must not find the lock taken by a thread it does not have.
const bool g_registered = [] {
  rnnk::around_fork([] { g_cache->mutex.lock(); }, [] { g_cache->mutex.unlock(); }, [] { g_cache->mutex.unlock(); });
  return true;
}();

// The kept block that fits best and wastes at most a quarter. If none does, smaller ones worth as much are given back: a series
// of ever larger sizes must not leave all of them behind.
Block* take(size_t size) {
  (void)g_registered;
  if (size < kLeast) return nullptr;
  const std::lock_guard<std::mutex> lock(g_cache->mutex);
  Block** best = nullptr;
  for (Block** link = &g_cache->newest; *link; link = &(*link)->older) {
    const Block& b = **link;
    if (b.size >= size && b.size - size <= size / 4 && (!best || b.size < (*best)->size)) best = link;
  }
  if (!best) {
    g_cache->make_room(size);
    return nullptr;
  }
  Block* found = *best;
  *best = found->older;
  g_cache->bytes -= found->size;
  return found;
}

void give(void* data, size_t size) {
  if (!data) return;
  if (size < kLeast) return rnnk::free_aligned(data);
  const std::lock_guard<std::mutex> lock(g_cache->mutex);
  g_cache->newest = new (data) Block{g_cache->newest, size};
  g_cache->bytes += size;
  g_cache->trim(g_cache->most);
}

}  // namespace

size_t cached_bytes() {
  const std::lock_guard<std::mutex> lock(g_cache->mutex);
  return g_cache->bytes;
}

size_t empty_cache() {
  const std::lock_guard<std::mutex> lock(g_cache->mutex);
  const size_t bytes = g_cache->bytes;
  g_cache->trim(0);
  return bytes;
}

Buffer::~Buffer() { give(data_, size_); }

void Buffer::swap(Buffer& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
}

void Buffer::reserve(size_t size) {
  if (size <= size_) return;
  // Megabytes want huge pages: fewer page faults, and fewer translation misses while they are streamed.
  const size_t alignment = size >= kHuge * 2 ? kHuge : 64, rounded = (size + alignment - 1) / alignment * alignment;
  Buffer fresh;
  if (Block* kept = take(rounded)) fresh.size_ = kept->size, fresh.data_ = kept;
  if (!fresh.data_) {
    fresh.data_ = rnnk::allocate_aligned(alignment, rounded);
    if (!fresh.data_) {
      empty_cache();  // what is kept may be what is missing
      fresh.data_ = rnnk::allocate_aligned(alignment, rounded);
    }
    if (!fresh.data_) throw std::bad_alloc();
    fresh.size_ = rounded;
    if (alignment == kHuge) rnnk::prefer_huge_pages(fresh.data_, rounded);
  }
  swap(fresh);
}

}  // namespace rnnk_py
