// How large a team is, and how many rows it takes: by a model of what a step costs. No constant here has been measured; they are
// published figures of an H100 (NOTES.md, "On a GPU"), and estimates where there are none.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "cuda/runtime.h"
#include "cuda/team.h"

namespace rnnk {
namespace gpu {
namespace {

constexpr double kCyclesPerUs = 1755;
constexpr double kProductCycles = 6.3;  // mma.sync.m16n8k16, one multiprocessor's quarter
constexpr double kLoadCycles = 4;       // 512 bytes of weights from shared memory
constexpr double kTurnUs = 0.12;        // barrier, sums through shared memory
constexpr double kElementUs = 0.08;     // a pointwise part
constexpr double kBytesPerUs = 41e3;    // what a multiprocessor reads when all do
constexpr double kClusterUs = 0.5, kFlagsUs = 0.72, kDataUs = 0.46;

double exchange_us(const Team& t, double bytes) {
  const double wait = t.exchange == Exchange::cluster ? kClusterUs : t.exchange == Exchange::flags ? kFlagsUs : kDataUs;
  return wait + bytes / kBytesPerUs;
}

// A multiprocessor's own work on 8 rows in one step.
double turn_us(const Problem& p, const Team& t, int gates) {
  const double slower = p.dtype == RNNK_FLOAT32 ? 2 : 1, fragments = t.all * slower;
  const int split = kTeamWarps / t.tiles;
  const double each = (fragments + split - 1) / split * gates;  // of a warp
  const double held = std::min(each, p.variant < 0 ? 32.0 : 16.0);
  const double cycles = 2 * each * kProductCycles * slower + (each - held) * split * t.tiles * kLoadCycles;
  const double elements = (t.tiles * 128 + kTeamThreads - 1) / kTeamThreads;
  return kTurnUs + cycles / kCyclesPerUs + elements * kElementUs;
}

// RNNKERN_GPU_TEAM=BLOCKS or BLOCKSxROW_TILES in the place of the model's choice.
struct Wanted {
  int blocks = 0, row_tiles = 0;  // 0: as the model chooses
  Wanted() {
    const char* const given = std::getenv("RNNKERN_GPU_TEAM");
    if (!given || !*given) return;
    char x = 0, more = 0;
    const int n = std::sscanf(given, "%d%c%d%c", &blocks, &x, &row_tiles, &more);
    if ((n != 1 && (n != 3 || x != 'x' || row_tiles < 1)) || blocks < 1) {
      fail(RNNK_INVALID_VALUE, "RNNKERN_GPU_TEAM: expected BLOCKS or BLOCKSxROW_TILES (8, 8x2), got \"%.40s\"", given);
    }
  }
};

}  // namespace

Choice choose_team(const Problem& p, int64_t batch, bool backward, Exchange exchange, const int* blocks, int count) {
  const Wanted given;
  if (given.blocks > 0) blocks = &given.blocks, count = 1;
  const Facts& f = facts(p.device_index);
  const CellInfo* const cell = cell_info(p.cell);
  const Axis axis(p.hidden_size, p.heads);
  const int64_t rows = std::max<int64_t>(1, (batch + 7) / 8), all = axis.pad / kTile;
  Choice best;
  for (int i = 0; i < count; ++i) {
    const int64_t tiles = (all + blocks[i] - 1) / blocks[i];
    if (tiles > kMostTiles || blocks[i] > f.multiprocessors || (exchange == Exchange::cluster && blocks[i] > 16)) continue;
    if (i > 0 && (all + blocks[i - 1] - 1) / blocks[i - 1] == tiles) continue;  // more blocks with nothing more to do
    Choice c;
    c.team = {blocks[i], static_cast<int>(tiles), static_cast<int>(all), 1, exchange};
    const int64_t teams = std::max<int64_t>(1, f.multiprocessors / blocks[i]);
    // Cooperative teams must run together, so a pass has no more heads than there are teams.
    if (exchange != Exchange::cluster && p.heads > teams) continue;
    const int64_t spread = given.row_tiles > 0 ? given.row_tiles : (rows * p.heads + teams - 1) / teams;
    const int64_t wanted = std::min(rows, spread);
    while (c.team.row_tiles < wanted) {
      ++c.team.row_tiles;
      if (team_bytes(p, c.team) <= f.shared_per_block) continue;
      --c.team.row_tiles;
      break;
    }
    if (team_bytes(p, c.team) > f.shared_per_block) continue;
    if (exchange != Exchange::cluster) c.at_once = teams;
    const int64_t groups = (rows + c.team.row_tiles - 1) / c.team.row_tiles * p.heads;
    const double rounds = static_cast<double>((groups + teams - 1) / teams);
    const double bytes = backward ? axis.pad * 8 * 4.0 * 2 : axis.pad * 8.0 * (p.dtype == RNNK_FLOAT32 ? 4 : 2);
    const double turn = turn_us(p, c.team, cell->gates), turns = c.team.row_tiles * turn;
    c.step_us = rounds * std::max(turns, turn + exchange_us(c.team, bytes));
    if (best.team.blocks == 0 || c.step_us < best.step_us) best = c;
  }
  return best;
}

}  // namespace gpu
}  // namespace rnnk
