// Loads that read what was there before: a store has reached memory, and another thread may go on reading the old value until it
// synchronises with the one who stored (views.h). So a kernel that forgets an acquire fails.
//
// Not modelled: that a thread that has read a new value of a word does not read an older one afterwards (the hardware promises it, so
// kernels are held to more), and loads that are not load_relaxed(): such a load of an old value is a race (races.h).
#pragma once
#include <cstdint>

#include "simt/views.h"

namespace rnnk {
namespace simt {

// A store is about to reach the word of 4 bytes at `word`.
void replace_word(uintptr_t word, const Access& store);
// Draws whether the running fiber reads an old value of a word, and which. False: it reads what is in memory.
bool read_old_word(uintptr_t word, unsigned char (&bytes)[4]);

void begin_history();  // of a launch: draws how often old values are read
void drop_history();   // it has ended: what comes after it sees everything

}  // namespace simt
}  // namespace rnnk
