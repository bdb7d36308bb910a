#include "memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <list>
#include <mutex>
#include <new>
#include <utility>

namespace rnnk_py {
namespace {

constexpr size_t kHuge = size_t{2} << 20, kLeast = size_t{1} << 20;  // of a block that is kept

struct Cache {
  struct Block {
    void* data;
    size_t size;
  };
  std::mutex mutex;
  std::list<Block> blocks;  // the last freed first
  size_t bytes = 0, most = size_t{256} << 20;

  Cache() {
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) most = static_cast<size_t>(pages) / 16 * static_cast<size_t>(page);
  }
};

// Lives as long as the process: buffers of other static objects may be freed after any destructor here.
Cache* g_cache = new Cache;
// A child of fork() must not find the lock taken by a thread it does not have.
const int g_registered =
    pthread_atfork([] { g_cache->mutex.lock(); }, [] { g_cache->mutex.unlock(); }, [] { g_cache->mutex.unlock(); });

// The kept block that fits best and wastes at most a quarter; null data: none.
Cache::Block take(size_t size) {
  (void)g_registered;
  if (size < kLeast) return {nullptr, 0};
  const std::lock_guard<std::mutex> lock(g_cache->mutex);
  auto& blocks = g_cache->blocks;
  auto best = blocks.end();
  for (auto b = blocks.begin(); b != blocks.end(); ++b) {
    if (b->size >= size && b->size - size <= size / 4 && (best == blocks.end() || b->size < best->size)) best = b;
  }
  if (best == blocks.end()) return {nullptr, 0};
  const Cache::Block found = *best;
  blocks.erase(best);
  g_cache->bytes -= found.size;
  return found;
}

void give(void* data, size_t size) {
  if (!data) return;
  if (size < kLeast) return std::free(data);
  const std::lock_guard<std::mutex> lock(g_cache->mutex);
  auto& c = *g_cache;
  c.blocks.push_front({data, size});
  c.bytes += size;
  while (c.bytes > c.most) {
    c.bytes -= c.blocks.back().size;
    std::free(c.blocks.back().data);
    c.blocks.pop_back();
  }
}

}  // namespace

size_t cached_bytes() {
  const std::lock_guard<std::mutex> lock(g_cache->mutex);
  return g_cache->bytes;
}

size_t empty_cache() {
  const std::lock_guard<std::mutex> lock(g_cache->mutex);
  for (const auto& block : g_cache->blocks) std::free(block.data);
  g_cache->blocks.clear();
  return std::exchange(g_cache->bytes, 0);
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
  const Cache::Block kept = take(rounded);
  fresh.data_ = kept.data, fresh.size_ = kept.size;
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
