#include "core/os.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <malloc.h>
#include <windows.h>
#else
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#elif defined(__APPLE__)
#include <dlfcn.h>
#include <sys/sysctl.h>
#endif

namespace rnnk {
namespace {

int all_cpus() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

#if !defined(_WIN32)
// The first line of a small file; "" where there is none.
std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// CPUs that `quota` microseconds in every `period` are worth, rounded up; 0: no limit.
int worth(long long quota, long long period) {
  return quota > 0 && period > 0 ? static_cast<int>(std::min((quota + period - 1) / period, 1LL << 20)) : 0;
}

// The quota of one control group: cpu.max of version 2, "max 100000" or "150000 100000", or the two files of version 1.
int quota_of(const std::string& group) {
  long long quota = 0, period = 0;
  if (std::sscanf(first_line(group + "/cpu.max").c_str(), "%lld %lld", &quota, &period) == 2) return worth(quota, period);
  if (std::sscanf(first_line(group + "/cpu.cfs_quota_us").c_str(), "%lld", &quota) != 1) return 0;
  if (std::sscanf(first_line(group + "/cpu.cfs_period_us").c_str(), "%lld", &period) != 1) return 0;
  return worth(quota, period);
}

// Whether a list of names with commas between them has this one.
bool lists(const std::string& names, const char* name) {
  return ("," + names + ",").find("," + std::string(name) + ",") != std::string::npos;
}
#endif

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

void stay_loaded() {
  HMODULE self;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
                     reinterpret_cast<LPCWSTR>(&stay_loaded), &self);
}

int quota_cpus(const char*, const char*) { return 0; }
void* allocate_aligned(size_t alignment, size_t size) { return _aligned_malloc(size, alignment); }
void free_aligned(void* data) { _aligned_free(data); }
void around_fork(void (*)(), void (*)(), void (*)()) {}

#else

int usable_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  const int allowed = sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : all_cpus();
  const int paid = quota_cpus("/proc/self/cgroup", "/sys/fs/cgroup");
  return paid > 0 ? std::min(allowed, paid) : allowed;
#else
  return all_cpus();
#endif
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

int quota_cpus(const char* membership, const char* mount) {
  int least = 0;
  const auto take = [&](const std::string& group) {
    if (const int cpus = quota_of(group); cpus > 0 && (least == 0 || cpus < least)) least = cpus;
  };
  std::ifstream groups(membership);
  for (std::string line; std::getline(groups, line);) {  // "0::/a/b" of version 2, "4:cpu,cpuacct:/a/b" of version 1
    const size_t one = line.find(':'), two = line.find(':', one + 1);
    if (one == std::string::npos || two == std::string::npos) continue;
    const std::string controllers = line.substr(one + 1, two - one - 1), path = line.substr(two + 1);
    if (!controllers.empty() && !lists(controllers, "cpu")) continue;
    for (const std::string& top : controllers.empty() ? std::vector<std::string>{"", "/unified"}
                                                      : std::vector<std::string>{"/" + controllers, "/cpu"}) {
      // The limit of every group above holds, too. In a container the top is its own group, whatever the path says.
      take(mount + top);
      for (size_t end = path.find('/', 1); path.size() > 1; end = path.find('/', end + 1)) {
        take(mount + top + path.substr(0, end));
        if (end == std::string::npos) break;
      }
    }
  }
  return least;
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

void stay_loaded() {
#if defined(__APPLE__)
  Dl_info self;
  if (dladdr(reinterpret_cast<const void*>(&stay_loaded), &self))
    dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
#endif  // elsewhere the linker was told: -z nodelete
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

bool has_dot_product() {
#if defined(__linux__) && defined(__aarch64__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__) && defined(__aarch64__)
  return true;  // from the first of these machines on
#else
  return false;
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
