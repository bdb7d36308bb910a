// Regions between pages that cannot be touched, and the signal that a touch raises.
#include "simt/shared.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "core/problem.h"
#include "simt/executor.h"
#include "simt/races.h"

namespace rnnk {
namespace simt {

namespace {

constexpr int64_t kGuard = 64 << 10, kArea = 256 << 10, kRegion = kGuard + kArea + kGuard;
constexpr unsigned char kUntouched = 0xfb;  // in the pages around the region: large and negative in every type

struct Region {
  char* at;
  int64_t pages;  // bytes at the end of its area that can be touched
  char* end() const { return at + kGuard + kArea; }
};
std::vector<Region> regions;

int64_t rounded(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

void permit(Region& region, int64_t pages) {
  if (region.pages == pages) return;
  bool done = region.pages == 0 || mprotect(region.end() - region.pages, region.pages, PROT_NONE) == 0;
  done = done && (pages == 0 || mprotect(region.end() - pages, pages, PROT_READ | PROT_WRITE) == 0);
  if (!done) fail(RNNK_OUT_OF_MEMORY, "no mapping for the shared memory of one more block");
  region.pages = pages;
}

// An access to `address`, outside of what the block there may use.
void report_shared(const char* address, const char* access) {
  const Block* owner = owner_of_shared(address);
  if (!owner) owner = current->block;
  report("shared memory out of bounds: %s at offset %lld of %lld of block (%lld, %lld)%s", access,
         static_cast<long long>(address - owner->shared), static_cast<long long>(owner->grid->shared),
         static_cast<long long>(owner->x), static_cast<long long>(owner->y), owner->live == 0 ? ", which has ended" : "");
}

struct sigaction before[2];
const int caught[2] = {SIGSEGV, SIGBUS};

void on_fault(int signal, siginfo_t* info, void* context) {
  const auto* address = static_cast<const char*>(info->si_addr);
  const char* access = "an access";
#if defined(__x86_64__)
  access = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "a write" : "a read";
#else
  (void)context;
#endif
  if (current) {  // report() leaves the fiber for good, and with it this handler
    if (in_stack_guard(current->stack, address)) report("its stack of %zu bytes overflows", Stack::kSize);
    for (const Region& region : regions) {
      if (address >= region.at && address < region.at + kRegion) report_shared(address, access);
    }
    report("%s at address %p, where there is no memory", access, info->si_addr);
  }
  sigaction(signal, &before[signal == SIGBUS], nullptr);  // the host's own: it happens again
}

alignas(16) char handler_stack[64 << 10];
stack_t stack_before;

}  // namespace

void reserve_shared(int blocks) {
  if (regions.size() < static_cast<size_t>(blocks)) drop_races();
  while (regions.size() < static_cast<size_t>(blocks)) {
    void* at = mmap(nullptr, kRegion, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) fail(RNNK_OUT_OF_MEMORY, "no memory for the shared memory of one more block");
    regions.push_back({static_cast<char*>(at), 0});
  }
}

char* open_shared(int index, int64_t size) {
  static const int64_t page = sysconf(_SC_PAGESIZE);
  Region& region = regions[index];
  permit(region, rounded(size, page));
  char* at = region.end() - rounded(size, 128);
  std::memset(region.end() - region.pages, kUntouched, region.pages - (region.end() - at));
  std::memset(at, 0xff, size);
  std::memset(at + size, kUntouched, region.end() - at - size);
  return at;
}

void check_shared(const Block& block, int64_t size) {
  for (const Region& region : regions) {
    if (block.shared < region.at || block.shared > region.end()) continue;
    for (const char* at = region.end() - region.pages; at < region.end(); ++at) {
      if (at == block.shared) at += size;
      if (at < region.end() && static_cast<unsigned char>(*at) != kUntouched) {
        return report("shared memory out of bounds: block (%lld, %lld) has written at offset %lld of %lld",
                      static_cast<long long>(block.x), static_cast<long long>(block.y),
                      static_cast<long long>(at - block.shared), static_cast<long long>(size));
      }
    }
  }
}

bool is_shared(const void* address) {
  const auto* at = static_cast<const char*>(address);
  for (const Region& region : regions) {
    if (at >= region.at && at < region.at + kRegion) return true;
  }
  return false;
}
const Block* owner_of_shared(const void* address) {
  const auto* at = static_cast<const char*>(address);
  for (size_t i = 0; i < regions.size(); ++i) {
    if (at >= regions[i].at && at < regions[i].at + kRegion) return block_at(static_cast<int>(i));
  }
  return nullptr;
}

void close_shared(int index) { permit(regions[index], 0); }

CatchFaults::CatchFaults() {
  forget(handler_stack, sizeof handler_stack);  // a handler that report() left is still on it
  stack_t stack{};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof handler_stack;
  sigaltstack(&stack, &stack_before);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 2; ++i) sigaction(caught[i], &action, &before[i]);
}

CatchFaults::~CatchFaults() {
  for (int i = 0; i < 2; ++i) sigaction(caught[i], &before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

}  // namespace simt
}  // namespace rnnk
