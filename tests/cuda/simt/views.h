// Loads that read what was there before: a store has reached memory, and another block may go on reading the old value until it
// synchronises with the one who stored. So a kernel that forgets an acquire fails.
//
// Every store of store_delayed() that reaches memory has a time. A view says of each block up to which time its stores have been seen.
// A release leaves the view of the thread that releases at its flag; an acquire of the flag takes it over; barriers join the views of
// their threads. A block sees its own stores. Not modelled: that a thread that has read a new value of a word does not read an older
// one afterwards (the hardware promises it, so kernels are held to more), and loads that are not load_relaxed().
#pragma once
#include <cstdint>
#include <vector>

namespace rnnk {
namespace simt {

struct Block;
struct Cluster;
struct Fiber;
struct Warp;

using View = std::vector<uint64_t>;  // by Block::number; empty: nothing has been seen

// A store of `by` is about to reach the word of 4 bytes at `word`.
void replace_word(uintptr_t word, const Block& by);
// Draws whether the running fiber reads an old value of a word, and which. False: it reads what is in memory.
bool read_old_word(uintptr_t word, unsigned char (&bytes)[4]);

void release_view(const uint32_t* flag, const Fiber& by, bool adds);
void acquire_view(const uint32_t* flag, Fiber& to);
void join_views(Warp&, uint32_t lanes);
void join_views(Block&);
void join_views(Cluster&);

void begin_views();  // of a launch: draws how often old values are read
void drop_views();   // it has ended: what comes after it sees everything

}  // namespace simt
}  // namespace rnnk
