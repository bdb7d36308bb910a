// The first bytes of packed weights in host memory: they say which plans may read the pack, and which halves it has.
#pragma once
#include "network/network.h"

namespace rnnk {

struct PackHeader {
  char magic[8];
  uint64_t layout;
  uint32_t halves;  // 1: forward; 2: backward
  uint32_t zero[11];
};
static_assert(sizeof(PackHeader) == 64, "what follows has the alignment of the pack");

// A hash of what decides how weights are laid out: plans with the same number read each other's packs. rnnkern.h lists what it covers.
uint64_t pack_layout(const Network&);

// Bytes before the kernel's own. Packs on a GPU have none: nothing on the host could read them before the call.
inline int64_t header_bytes(const Network& n) { return n.on_cpu() ? int64_t{sizeof(PackHeader)} : 0; }

// Writes the header and returns where the kernels' own bytes go. Halves of the same layout add up.
void* begin_pack(void* packed, uint64_t layout, Halves halves);
// Scratch in place of a pack, which no call may take for one. Returns where the kernels' own bytes are.
void* no_pack(void* packed);
// Where the kernels' own bytes are. Throws Failure for bytes that are no pack, a pack of another layout, and a missing half.
void* open_pack(void* packed, uint64_t layout, Halves needed);

}  // namespace rnnk
