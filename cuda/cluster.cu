// cuda_cluster: teams of 2 to 16 blocks that are a cluster each, so that a block writes into its peers' shared memory. Any number
// of clusters run beside or after each other: rows, heads.
#include "cuda/team_record.cuh"

namespace rnnk {
namespace gpu {
namespace {

constexpr int kSizes[] = {2, 4, 8, 16};

struct Clusters {
  static Choice choose(const Problem& p, int64_t batch, bool backward, Refusal* why = nullptr) {
    return choose_team(p, batch, backward, Exchange::cluster, kSizes, 4, why);
  }
  static const char* unable(const Facts& f) { return f.capability < 90 ? "clusters need compute capability 9.0" : ""; }
};

}  // namespace
}  // namespace gpu

extern const Kernel cuda_cluster_kernel;
const Kernel cuda_cluster_kernel = gpu::team_kernel<gpu::Clusters>("cuda_cluster");

}  // namespace rnnk
