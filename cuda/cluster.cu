// cuda_cluster: teams of 2 to 16 blocks that are a cluster each, so that a block writes into its peers' shared memory. Any number
// of clusters run beside or after each other: rows, heads.
#include <cstdio>

#include "cuda/team_record.cuh"

namespace rnnk {
namespace gpu {
namespace {

constexpr int kSizes[] = {2, 4, 8, 16};

struct Clusters {
  static Choice choose(const Problem& p, int64_t batch, bool backward) {
    return choose_team(p, batch, backward, Exchange::cluster, kSizes, 4);
  }
  static bool accepts(const Problem& p, const Choice& c, char* reason, int64_t size) {
    const Facts& f = facts(p.device_index);
    if (f.capability < 90) {
      std::snprintf(reason, static_cast<size_t>(size), "clusters need compute capability 9.0, this GPU has %d.%d",
                    f.capability / 10, f.capability % 10);
      return false;
    }
    if (c.team.blocks == 0) {
      const Axis axis(p.hidden_size, p.heads);
      const Team most{16, std::min<int>(kMostTiles, static_cast<int>((axis.pad / kTile + 15) / 16)),
                      static_cast<int>(axis.pad / kTile), 1, Exchange::cluster};
      if (axis.pad > 16 * kMostTiles * kTile) {
        std::snprintf(reason, static_cast<size_t>(size),
                      "a head of %lld units is more than the %d of a cluster of 16 blocks",
                      static_cast<long long>(axis.each), 16 * kMostTiles * kTile);
      } else {
        std::snprintf(reason, static_cast<size_t>(size),
                      "a head of %lld units needs %lld bytes of shared memory in each of 16 blocks, a block has %lld",
                      static_cast<long long>(axis.each), static_cast<long long>(team_bytes(p, most)),
                      static_cast<long long>(f.shared_per_block));
      }
      return false;
    }
    if (clusters_at_once(p, c.team) > 0) return true;
    std::snprintf(reason, static_cast<size_t>(size), "this GPU has no room for a cluster of %d blocks", c.team.blocks);
    return false;
  }
};

}  // namespace
}  // namespace gpu

extern const Kernel cuda_cluster_kernel;
const Kernel cuda_cluster_kernel = gpu::team_kernel<gpu::Clusters>("cuda_cluster");

}  // namespace rnnk
