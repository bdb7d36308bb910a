// Races: two accesses to the same bytes, one of them a write, by threads that nothing orders (views.h). Kernels are compiled with
// -fsanitize=thread, whose calls (hooks.cpp) come here instead of to that sanitizer's own library; what the executor does for a
// kernel is told to accesses(). A race ends the launch with both places in the program.
//
// Strong accesses, which are those of exchange.h and volatile ones, are no race among themselves as long as their elements are the
// same bytes: PTX says nothing of those that overlap otherwise ("Conflict and data-races").
//
// The last two writes and reads of each word of 4 bytes are known; so a race may be seen in some orders of the threads alone. The
// stacks of fibers are not watched. A read of a line that the multiprocessor's own cache has from before another block's write needs no
// check of its own: without an order between them it is a race, and with one the cache is no longer asked.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "simt/views.h"

namespace rnnk {
namespace simt {

enum class Does : uint8_t { read, write };
struct How {
  Does does;
  bool strong;
  uint8_t element;  // bytes: 1 to 16
};
constexpr How kReads{Does::read, false, 1}, kWrites{Does::write, false, 1};

// The running fiber, or work of the host on a stream; place: in the program, a return address.
void accesses(const void* at, size_t size, How, const void* place);
// A copy in the background: a write that nothing is ordered with until it has landed, and then is by `as`.
void departs(const void* to, size_t size, const void* place);
void lands(const void* to, size_t size, const Access& as);

// Both places of the race that was reported, for the end of the failure's text; or nothing.
std::string places_of_race();

void begin_races();  // of launches
void drop_races();   // memory is another one's now

}  // namespace simt
}  // namespace rnnk

// For tests, found by name: whether races are looked for; they are unless told otherwise.
extern "C" __attribute__((visibility("default"))) void rnnk_simt_races(int looked_for);
