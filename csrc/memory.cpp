#include "memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

namespace rnnk_py {
namespace {

constexpr size_t kHuge = size_t{2} << 20, kLeast = size_t{1} << 20;  // of a block that is kept

// A kept block begins with its place in the list, so that keeping one allocates nothing and cannot fail.
struct Block {
  Block* older;
  size_t size;
};

// What this process may use, as the machine and its limits say; a container's own limit is a file.
size_t memory_limit() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  size_t limit = pages > 0 && page > 0 ? static_cast<size_t>(pages) * static_cast<size_t>(page) : size_t{4} << 30;
  rlimit space;
  if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) {
    limit = std::min(limit, static_cast<size_t>(space.rlim_cur));
  }
  for (const char* name : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    if (std::FILE* file = std::fopen(name, "r")) {
      unsigned long long bytes = 0;
      if (std::fscanf(file, "%llu", &bytes) == 1 && bytes > 0) limit = std::min<size_t>(limit, bytes);
      std::fclose(file);
    }
  }
  return limit;
}

struct Cache {
  std::mutex mutex;
  Block* newest = nullptr;
  size_t bytes = 0;
  const size_t most = memory_limit() / 16;

  void free_after(Block** link) {
    Block* block = *link;
    *link = block->older;
    bytes -= block->size;
    std::free(block);
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
const int g_registered =
    pthread_atfork([] { g_cache->mutex.lock(); }, [] { g_cache->mutex.unlock(); }, [] { g_cache->mutex.unlock(); });

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
  if (size < kLeast) return std::free(data);
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
    fresh.data_ = std::aligned_alloc(alignment, rounded);
    if (!fresh.data_) {
      empty_cache();  // what is kept may be what is missing
      fresh.data_ = std::aligned_alloc(alignment, rounded);
    }
    if (!fresh.data_) throw std::bad_alloc();
    fresh.size_ = rounded;
#if defined(__linux__)
    if (alignment == kHuge) madvise(fresh.data_, rounded, MADV_HUGEPAGE);  // a hint: failing changes nothing
#endif
  }
  swap(fresh);
}

}  // namespace rnnk_py
