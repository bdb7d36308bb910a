// Calls to the operating system. Linux, macOS and Windows differ in os.cpp and nowhere else.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rnnk {

int usable_cpus();         // CPUs that this process may run on, or a container's quota pays for; at least 1
int64_t level2_bytes();    // a core's second-level cache; 0: unknown
size_t memory_limit();     // bytes that the machine, the process's limits and its container allow
bool has_dot_product();    // AArch64: the instructions that sum products of four bytes
bool allow_matrix_unit();  // asks the system for the registers of AMX; false: refused

// CPUs that the quotas of this process's control groups pay for, rounded up; 0: no limit. membership: a file like
// /proc/self/cgroup; mount: where the groups are, like /sys/fs/cgroup.
int quota_cpus(const char* membership, const char* mount);

// From now on the library stays in memory, whatever its host unloads: its threads run its code.
void stay_loaded();

// Null when there is no memory. `size` is a multiple of `alignment`, which is a power of two.
void* allocate_aligned(size_t alignment, size_t size);
void free_aligned(void* data);
void prefer_huge_pages(void* data, size_t size);  // a hint, which may change nothing

// Registers functions that run around fork(): before it and after it in the parent, after it in the child. Any may be null.
// Windows has no fork.
void around_fork(void (*before)(), void (*parent)(), void (*child)());

}  // namespace rnnk
