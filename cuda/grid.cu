// cuda_grid: teams of up to all multiprocessors, which tell each other through the second-level cache. A launch is cooperative: its
// teams run together, and what rows they cannot take wait for the next.
#include <cstdlib>
#include <cstring>

#include "cuda/team_record.cuh"

namespace rnnk {
namespace gpu {
namespace {

// RNNKERN_GRID_EXCHANGE: flags (the default), sync or data. BPTT has flags in the place of data, which would take a place of their
// own for every step's messages, or a number beside every value.
Exchange exchange(bool backward) {
  const char* const given = std::getenv("RNNKERN_GRID_EXCHANGE");
  if (!given || !*given || std::strcmp(given, "flags") == 0) return Exchange::flags;
  if (std::strcmp(given, "sync") == 0) return Exchange::sync;
  if (std::strcmp(given, "data") == 0) return backward ? Exchange::flags : Exchange::data;
  fail(RNNK_INVALID_VALUE, "RNNKERN_GRID_EXCHANGE: expected flags, sync or data, got \"%.40s\"", given);
}

struct Grids {
  static Choice choose(const Problem& p, int64_t batch, bool backward, Refusal* why = nullptr) {
    const int all = static_cast<int>(Axis(p.hidden_size, p.heads).pad / kTile);
    int sizes[kMostTiles];
    for (int i = 0; i < kMostTiles; ++i) sizes[i] = (all + kMostTiles - 1 - i) / (kMostTiles - i);
    return choose_team(p, batch, backward, exchange(backward), sizes, kMostTiles, why);
  }
  static const char* unable(const Facts&) { return ""; }
};

}  // namespace
}  // namespace gpu

extern const Kernel cuda_grid_kernel;
const Kernel cuda_grid_kernel = [] {
  Kernel kernel = gpu::team_kernel<gpu::Grids>("cuda_grid");
  kernel.cooperative = true;
  return kernel;
}();

}  // namespace rnnk
