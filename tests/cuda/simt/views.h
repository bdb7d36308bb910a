// What threads have seen of each other's accesses to memory: what happened before what, as barriers, releases and acquires say.
//
// A synchronisation ends a time and begins the next, so that accesses have the number of theirs. A view says up to which time the
// accesses of each block, or of some warps and threads of it, come before what its owner does. A release leaves the view of its
// thread at the flag, an acquire of the flag takes it over, barriers join the views of their threads. Launches on forked streams come
// after those that the streams say (Line), all others after everything before them.
//
// Not modelled: what a thread does between cluster_arrive_release() and cluster_wait_acquire() counts as done before the barrier.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rnnk {
namespace simt {

struct Block;
struct Cluster;
struct Fiber;
struct Warp;

// Who accessed memory, and when.
struct Access {
  uint64_t time;
  uint32_t block;  // Block::id
  uint32_t who;    // its thread; or kCounted + i: what store_async() has brought and the block's mbarrier i has counted
};
constexpr uint32_t kCounted = 1024, kWarp = 2048, kParts = 4096;

struct Times {
  struct Part {
    uint32_t of;  // kParts * Block::number + a thread, kCounted + an mbarrier or kWarp + a warp
    uint64_t time;
  };
  std::vector<uint64_t> blocks;  // by Block::number: all their threads
  std::vector<Part> parts;       // ascending: besides
  bool empty() const { return blocks.empty() && parts.empty(); }
  void clear();
};
struct View {
  Times seen;
  Times over;  // besides: what cannot meet a later write, though it need not be seen (depend_view)
  bool empty() const { return seen.empty() && over.empty(); }
  void clear();
};

// Work on a forked stream, and how much of each stream it comes after.
struct Line {
  uint64_t fork;  // its time
  size_t stream, place;
  std::vector<size_t> after;  // by stream
  uint32_t first = 0;         // block, once it runs
};

extern uint64_t now;    // the time
extern uint64_t start;  // everything up to this one was before what runs

// Whether an access comes before what a thread reads next, or writes.
bool ordered(const Access&, Fiber&, bool writes);

void release_view(const uint32_t* flag, Fiber& by, bool adds);
void acquire_view(const uint32_t* flag, Fiber& to);
void join_views(Warp&, uint32_t lanes);
void join_views(Block&);
void join_views(Cluster&);

// mbarriers, by address: an arrival releases, a phase that has ended is acquired.
uint32_t counter_of(const uint64_t* barrier, const Block& its);  // as Access::who
// A store_async() of this thread counts there. It is no release. But what it stores has been made of what the block has read before its
// last barrier, and so have the answers to it: who gets those may write there again.
void depend_view(const uint64_t* barrier, const Fiber& by);
void arrive_view(const uint64_t* barrier, Fiber& by);
void end_phase_view(const uint64_t* barrier);
void acquire_phase_view(const uint64_t* barrier, Fiber& to);

// Blocks that run together from now on; the id of the first.
uint32_t begin_views(int blocks);
void begin_line(Line&, uint32_t first, uint32_t end);  // blocks of it, some of those
uint64_t begin_fork();                                 // its time
void begin_order(const Line*);                         // of a launch, or of several in the same fork; null: after everything
void drop_views();

}  // namespace simt
}  // namespace rnnk
