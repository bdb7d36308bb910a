#include "network/pack_header.h"

#include <cstring>

namespace rnnk {
namespace {

constexpr char kMagic[8] = {'r', 'n', 'n', 'k', 'p', 'a', 'c', 'k'};

uint32_t bits(Halves halves) { return (halves.forward ? 1u : 0u) | (halves.backward ? 2u : 0u); }

}  // namespace

uint64_t pack_layout(const Network& n) {
  constexpr uint32_t with_parameters =
      RNNK_PROBLEM_PEEPHOLE | RNNK_PROBLEM_RESET_BEFORE | RNNK_PROBLEM_LAYER_NORM | RNNK_PROBLEM_INDEPENDENT;
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a, 64 bits (Fowler, Noll and Vo, RFC 9923)
  const auto take = [&](const void* data, size_t size) {
    for (size_t i = 0; i < size; ++i) hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  };
  const Problem& p = n.first();
  for (const int64_t number :
       {int64_t{p.cell}, int64_t{p.dtype}, int64_t{p.device}, int64_t{p.device_index}, int64_t{p.tf32}, int64_t{p.bias},
        p.input_size, p.hidden_size, p.output_size, int64_t{p.projects}, p.heads, int64_t{p.flags & with_parameters},
        n.num_layers, n.directions}) {
    take(&number, sizeof number);
  }
  for (int l = 0; l < (n.num_layers > 1 ? 2 : 1); ++l) {
    const char* const kernel = n.layers[l][0].kernel->name;
    take(kernel, std::strlen(kernel));
    // Where TF32 is allowed, a kernel may still pack layers with options in float32. One direction alone may have options (activations).
    for (int d = 0; p.tf32 && d < n.directions; ++d) {
      const bool has_options = n.layers[l][d].plain.variant >= 0;
      take(&has_options, sizeof has_options);
    }
  }
  return hash;
}

void* begin_pack(void* packed, uint64_t layout, Halves halves) {
  PackHeader old, header{};
  std::memcpy(&old, packed, sizeof old);
  const bool same = !std::memcmp(old.magic, kMagic, sizeof kMagic) && old.layout == layout;
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.layout = layout;
  header.halves = bits(halves) | (same ? old.halves : 0);
  std::memcpy(packed, &header, sizeof header);
  return static_cast<char*>(packed) + sizeof header;
}

void* no_pack(void* packed) {
  std::memset(packed, 0, sizeof(PackHeader));
  return static_cast<char*>(packed) + sizeof(PackHeader);
}

void* open_pack(void* packed, uint64_t layout, Halves needed) {
  PackHeader header;
  std::memcpy(&header, packed, sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic)) {
    fail(RNNK_INVALID_VALUE, "packed: expected what rnnk_pack_weights wrote, got other bytes");
  }
  if (header.layout != layout) {
    fail(RNNK_INVALID_VALUE, "packed: expected weights packed for this plan's kernel, cell, sizes, dtype and options");
  }
  if (bits(needed) & ~header.halves) {
    fail(RNNK_INVALID_VALUE, "packed: expected a pack for %s, got one without that half",
         needed.backward ? "rnnk_backward" : "rnnk_forward");
  }
  return static_cast<char*>(packed) + sizeof header;
}

}  // namespace rnnk
