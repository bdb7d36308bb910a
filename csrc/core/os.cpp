#include "core/os.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <malloc.h>
#include <windows.h>

#include <vector>
#else
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace rnnk {
namespace {

int all_cpus() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

}  // namespace

#if defined(_WIN32)

int usable_cpus() {
  DWORD_PTR own = 0, machine = 0;
  if (!GetProcessAffinityMask(GetCurrentProcess(), &own, &machine) || !own) return all_cpus();
  int count = 0;
  for (; own; own &= own - 1) ++count;
  return count;
}

int64_t level2_bytes() {
  DWORD bytes = 0;
  GetLogicalProcessorInformation(nullptr, &bytes);
  std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> parts(bytes / sizeof(SYSTEM_LOGICAL_PROCESSOR_INFORMATION) + 1);
  bytes = static_cast<DWORD>(parts.size() * sizeof parts[0]);
  if (!GetLogicalProcessorInformation(parts.data(), &bytes)) return 0;
  for (size_t i = 0; i < bytes / sizeof parts[0]; ++i) {
    if (parts[i].Relationship == RelationCache && parts[i].Cache.Level == 2) return parts[i].Cache.Size;
  }
  return 0;
}

size_t memory_limit() {
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof status;
  return GlobalMemoryStatusEx(&status) ? static_cast<size_t>(status.ullTotalPhys) : size_t{4} << 30;
}

void* allocate_aligned(size_t alignment, size_t size) { return _aligned_malloc(size, alignment); }
void free_aligned(void* data) { _aligned_free(data); }
void around_fork(void (*)(), void (*)(), void (*)()) {}

#else

int usable_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return all_cpus();
}

int64_t level2_bytes() {
#if defined(__APPLE__)
  int64_t bytes = 0;
  size_t size = sizeof bytes;
  return sysctlbyname("hw.l2cachesize", &bytes, &size, nullptr, 0) == 0 ? bytes : 0;
#elif defined(_SC_LEVEL2_CACHE_SIZE)
  return std::max(0L, sysconf(_SC_LEVEL2_CACHE_SIZE));
#else
  return 0;
#endif
}

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

void* allocate_aligned(size_t alignment, size_t size) { return std::aligned_alloc(alignment, size); }
void free_aligned(void* data) { std::free(data); }
void around_fork(void (*before)(), void (*parent)(), void (*child)()) { pthread_atfork(before, parent, child); }

#endif

void prefer_huge_pages(void* data, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  (void)madvise(data, size, MADV_HUGEPAGE);
#else
  (void)data, (void)size;
#endif
}

bool allow_matrix_unit() {
#if defined(__linux__) && defined(__x86_64__) && defined(SYS_arch_prctl)
  // Linux gives a process the unit's 8 KiB of registers when it asks for them, once for all its threads.
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace rnnk
