// The host SIMT executor: one fiber per CUDA thread of the blocks that run together, on one host thread. What kernels call
// (device.h, exchange.h) acts on the running fiber through the few functions below.
//
// The order in which fibers run is drawn from a seed (RNNKERN_SIMT_SEED, rnnk_simt_seed; 0 by default): a warp is drawn, its
// lanes run in a drawn order until they wait, and warps get ahead of each other by chance. Whatever goes wrong in a kernel
// (deadlock, an access outside of shared memory, lanes that meet at different operations) ends the launch with a Failure that
// names the kernel, the block, the thread and the operation.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "simt/calls.h"
#include "simt/fiber.h"
#include "simt/views.h"

namespace rnnk {
namespace simt {

const char* name_of(Op);

struct Random {  // splitmix64
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
};

struct Warp;
struct Block;

struct Copy {  // copy_async, not yet waited for
  void* to;
  const void* from;
  int group;
  bool done;
  const void* place;  // in the program
};

struct Fiber {
  Block* block;
  Warp* warp;
  int thread;
  Op waits;        // where it stands now
  bool arrived;    // at the cluster's barrier, and has not waited since
  uint32_t phase;  // of that barrier when it arrived
  uint32_t loads;  // that may be polls, since it last yielded
  int groups;      // copy groups committed
  void* deposit;   // what it brought to a warp's operation
  void* at;        // its stack pointer while it does not run
  Stack stack;     // low == nullptr: not started, or ended
  void* shadow;    // AddressSanitizer's
  std::vector<Copy> copies;
  std::vector<uintptr_t> stores;  // delayed ones: delayed.h
  View view;                      // beyond its warp's: views.h
  uint64_t last;                  // when it accessed memory last
  uint32_t lane() const { return static_cast<uint32_t>(thread) & 31; }
  uint32_t bit() const { return 1u << lane(); }
};

struct Warp {
  Block* block;
  Fiber* lanes;  // 32, or what is left of the block
  uint32_t live, ready, arrived;
  bool queued;  // among those that may run
  Op op;        // that `arrived` wait at
  void (*complete)(Warp&);
  std::vector<uintptr_t> stores;
  View view;      // beyond its block's
  uint64_t time;  // of its last barrier
};

struct Cluster {
  Block* blocks;
  int size, live, arrived;  // threads
  uint32_t phase;
};

struct Block {
  const Grid* grid;
  int64_t x, y;
  int number;   // among those that run together
  uint32_t id;  // among all that have run
  int rank;     // in its cluster
  Cluster* cluster;
  Warp* warps;
  Fiber* fibers;
  int threads, live, arrived;
  char* shared;
  std::vector<uintptr_t> stores;
  View view;
  uint64_t time;  // of its last barrier
};

extern Fiber* current;  // null while the host runs
extern Random chance;

// The block of this number, or of this id, if it is among those that run together; null otherwise.
const Block* block_at(int number);
const Block* block_with(uint32_t id);
// Work on memory by the host, on a stream: who does it. Null while there is none.
Fiber* host_fiber();

// The running fiber waits at `op` until it is woken.
void suspend(Op op);
void wake(Warp&, uint32_t lanes);
// The fiber has ended: those who met without it go on.
void leave(Fiber&);
// Something happened that others may wait for.
void progress();
// Meets the live lanes of the warp, which must all come with the same op. The last one runs complete(warp), which finds what
// every lane brought in lanes[i].deposit; `whole`: a warp of 32 live lanes is needed.
void meet(Op op, void* deposit, void (*complete)(Warp&), bool whole);

// Ends the launch with a Failure whose text starts with the kernel and, of a running fiber, its block and thread.
[[gnu::format(printf, 1, 2)]] void report(const char* format, ...);

// One launch; or several that run at the same time, each with all its blocks at once.
void run(const std::vector<Grid>&);
// Work of the host on memory, which comes after `line`'s: what accesses() is told in it is checked as a thread's.
void run_on_host(Line* line, const char* name, const std::function<void()>& work);
// The time of a fork of streams.
uint64_t fork_time();
// The next number of an order that is drawn, after the seed's.
Random next_order();

}  // namespace simt
}  // namespace rnnk

// Found by name in the library that has the executor.
extern "C" {
// Launches from here on repeat those after an earlier call with this seed.
__attribute__((visibility("default"))) void rnnk_simt_seed(uint64_t seed);
// A hash of the order in which fibers ran since then.
__attribute__((visibility("default"))) uint64_t rnnk_simt_trace(void);
}
