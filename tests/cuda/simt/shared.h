// The shared memory of the blocks that run together: each region ends at a page that cannot be touched, and has one before it.
#pragma once
#include <cstdint>

namespace rnnk {
namespace simt {

struct Block;

constexpr int64_t kMostShared = 232448;  // bytes of one block: 227 KiB

// Regions 0 to blocks - 1 can be used from now on.
void reserve_shared(int blocks);
// Region `index` as `size` bytes, all 0xff: a NaN in every type, an index far out of range. 128-byte aligned.
char* open_shared(int index, int64_t size);
// What lies around it within its pages must be untouched; otherwise the launch ends with a failure.
void check_shared(const Block&, int64_t size);
// Whether there is such a region around an address, and which block's it is now, if anyone's.
bool is_shared(const void* address);
const Block* owner_of_shared(const void* address);
// Nobody may touch it until it is opened again: its block has ended.
void close_shared(int index);

// A touched page ends the launch with a Failure while this lives.
class CatchFaults {
 public:
  CatchFaults();
  ~CatchFaults();
  CatchFaults(const CatchFaults&) = delete;
  CatchFaults& operator=(const CatchFaults&) = delete;
};

}  // namespace simt
}  // namespace rnnk
