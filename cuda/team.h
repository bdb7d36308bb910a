// A team: the blocks that share the weights of one head and take rows of the batch through all steps together, each keeping its
// units' weights on chip. What two strategies have in common; they differ in how a team's blocks tell each other their results.
#pragma once
#include "core/kernel.h"
#include "cuda/layout.h"

namespace rnnk {
namespace gpu {

enum class Exchange : int {
  cluster,  // into the peers' shared memory, counted by a barrier there (cuda_cluster)
  flags,    // through global memory, with a flag of every block behind a release
  sync,     // the same, all blocks meeting at one counter: a barrier, for tests and measurements to compare the others with
  data      // through global memory filled with a pattern that no result has: the data are their own flag
};

constexpr int kTeamWarps = 8, kTeamThreads = 32 * kTeamWarps, kMostTiles = 8;  // tiles: of a block

struct Team {
  int blocks;
  int tiles;      // of units, of a block; the last that has any may have fewer
  int all;        // of units, of the head
  int row_tiles;  // of 8 rows: recurrences that do not wait for each other, taken in turn
  Exchange exchange;
  RNNK_HD int active() const { return (all + tiles - 1) / tiles; }  // blocks that have units
  RNNK_HD int tiles_of(int rank) const {
    const int left = all - rank * tiles;
    return left < 0 ? 0 : left < tiles ? left : tiles;
  }
};

// Why a problem's step is not one product and one pointwise part on matrix units, with one exchange between; or "".
const char* not_one_exchange(const Problem&);
// Bytes of shared memory that a block needs: the larger of forward and backward.
int64_t team_bytes(const Problem&, const Team&);
// Bytes of workspace beyond what every strategy has.
int64_t team_mailbox_bytes(const Problem&, const Team&, int64_t seq_len, int64_t batch, bool backward);
// How many teams in clusters of this size the GPU runs at the same time.
int64_t clusters_at_once(const Problem&, const Team&);

// A call. at_once: how many teams may be launched together, all of them running (a cooperative launch); 0: any number.
void team_forward(const Problem&, const LayerCall&, const Team&, int64_t at_once);
void team_backward(const Problem&, const LayerCall&, const Team&, int64_t at_once);

// How a strategy takes a problem. Pure functions of the problem, the batch and the device's facts.
struct Choice {
  Team team{};  // team.blocks == 0: it does not fit
  int64_t at_once = 0;
  double step_us = 0;  // of all rows
};
// Why none fits: of the sizes that could hold a head, the least that a block of one needs; blocks == 0: there is no such size.
struct Refusal {
  int blocks;
  int64_t bytes;
};
// The fastest of the teams of the given numbers of blocks, by a model of a step. The number of blocks does not depend on the batch.
Choice choose_team(const Problem&, int64_t batch, bool backward, Exchange, const int* blocks, int count,
                   Refusal* why = nullptr);

}  // namespace gpu
}  // namespace rnnk
