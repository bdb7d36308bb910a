// Stores that other blocks read: they stay in a buffer and reach memory word by word, in a drawn order at drawn times, until a
// release makes them all visible. So a kernel that forgets a release, or trusts one word because it has seen another, fails.
//
// A buffer belongs to a fiber. What happened before a warp's or a block's barrier is also ordered before a release by any
// other thread that passed it: there the buffers become the warp's or the block's.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rnnk {
namespace simt {

struct Block;
struct Fiber;
struct Warp;

// 1, 2, 4, 8 or 16 bytes, aligned, by the running fiber. 8 and 16 bytes are words of 4, each on its own. strong: races.h.
void store_delayed(void* to, const void* from, size_t size, bool strong);
// What the running fiber sees there: its own stores, and those ordered before it, even while they are delayed; of others' that it
// has not synchronised with perhaps an older value (history.h).
void load_current(void* to, const void* from, size_t size);
void release(Fiber&);
void store_released(uint32_t* to, uint32_t value, bool adds);
uint32_t load_acquired(const uint32_t* from);
void hand_to_warp(Warp&);
void hand_to_block(Block&);

// Before a load that may be one of a polling loop: now and then others run, lest a loop without poll_pause() hangs.
void maybe_polls();

// Where block `rank` of the cluster has what the running fiber's has at `own`.
void* map_shared(void* own, int rank);

// 4 or 16 bytes into the shared memory of a block of the cluster; they arrive some time later and count at its mbarrier.
void store_later(void* to, const void* from, size_t size, uint64_t* barrier);

// An mbarrier is the 64 bits of the hardware's, laid out as this executor likes.
void barrier_init(uint64_t* barrier, int count);
void barrier_expect(uint64_t* barrier, uint32_t bytes);
void barrier_expect_more(uint64_t* barrier, uint32_t bytes);
bool barrier_passed(uint64_t* barrier, uint32_t parity);

// Called by the scheduler.
void begin_delays();  // of a launch: draws how long they tend to be
void let_some_arrive();
void finish_delays();               // the kernel has ended
void drop_delays();                 // it has failed
void check_arrivals(const Block&);  // a block has ended: nothing may be on its way to it

}  // namespace simt
}  // namespace rnnk
