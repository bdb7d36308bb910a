// How large a team is, and how many rows it takes: by a model of what a step costs. No constant here has been measured: cycles are
// read in the machine code (instances.tsv), waits are published figures of an H100 (NOTES.md, "On a GPU").
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "cuda/runtime.h"
#include "cuda/team.h"

namespace rnnk {
namespace gpu {
namespace {

// The size of a team must not depend on the batch: the order of sums does on it, and a row's bits must not on the other rows.
constexpr int64_t kNominalBatch = 16;

constexpr double kCyclesPerUs = 1755;
constexpr double kProductCycles = 6.3;  // mma.sync.m16n8k16, one multiprocessor's quarter
constexpr double kLoadCycles = 4;       // 512 bytes of weights from shared memory
constexpr double kTurnCycles = 500;     // polling, sums into shared memory, the barrier, addresses
constexpr double kElementCycles =
    750;  // sums, pointwise part and message of an element of a thread: 700-1,200 with the former
constexpr double kOptionsSlower = 1.6;                // the pointwise part of cells with options
constexpr double kResultTileCycles = 160;             // BPTT: from one tile of the result to the next
constexpr double kBytesPerUs = 41e3;                  // what a multiprocessor reads when all do
constexpr double kWaitUs[] = {0.5, 0.72, 1.1, 0.46};  // by Exchange

double exchange_us(const Team& t, double bytes) { return kWaitUs[static_cast<int>(t.exchange)] + bytes / kBytesPerUs; }

// A multiprocessor's own work on 8 rows in one step.
double turn_us(const Problem& p, const Team& t, int gates, bool backward) {
  const double slower = p.dtype == RNNK_FLOAT32 ? 2 : 1, fragments = t.all * slower;
  const int split = kTeamWarps / t.tiles;
  const double each = (fragments + split - 1) / split * gates;  // of a warp
  const double held = std::min(each, p.variant < 0 ? 32.0 : 16.0);
  const double products = 2 * each * kProductCycles * slower + (each - held) * split * t.tiles * kLoadCycles;
  const double elements = (t.tiles * 128 + kTeamThreads - 1) / kTeamThreads;
  const double results = backward ? (t.all + kTeamWarps - 1) / kTeamWarps : 0;
  const double pointwise = elements * kElementCycles * (p.variant < 0 ? 1 : kOptionsSlower);
  return (kTurnCycles + products + pointwise + results * kResultTileCycles) / kCyclesPerUs;
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

// A team of one size, or none: team.blocks == 0.
Choice team_of(const Problem& p, int64_t batch, bool backward, Exchange exchange, int blocks, int row_tiles, Refusal* why) {
  const Facts& f = facts(p.device_index);
  const Axis axis(p.hidden_size, p.heads);
  const int64_t rows = std::max<int64_t>(1, (batch + 7) / 8), all = axis.pad / kTile, tiles = (all + blocks - 1) / blocks;
  const bool cluster = exchange == Exchange::cluster;
  Choice c;
  if (tiles > kMostTiles || blocks > (cluster ? 16 : f.multiprocessors)) return c;
  Team team{blocks, static_cast<int>(tiles), static_cast<int>(all), 1, exchange};
  const int64_t bytes = team_bytes(p, team);
  if (!why->blocks || bytes < why->bytes) *why = {blocks, bytes};
  if (bytes > f.shared_per_block) return c;
  const int64_t teams = cluster ? clusters_at_once(p, team) : f.multiprocessors / blocks;
  // Cooperative teams run together, so a launch has no more heads than there are teams.
  if (teams < 1 || (!cluster && p.heads > teams)) return c;
  const int64_t wanted = std::min(rows, row_tiles > 0 ? row_tiles : (rows * p.heads + teams - 1) / teams);
  for (; team.row_tiles < wanted; ++team.row_tiles) {
    Team more = team;
    ++more.row_tiles;
    if (team_bytes(p, more) > f.shared_per_block) break;
  }
  c.team = team;
  if (!cluster) c.at_once = teams;
  const int64_t groups = (rows + team.row_tiles - 1) / team.row_tiles * p.heads;
  const double rounds = static_cast<double>((groups + teams - 1) / teams);
  const double units = static_cast<double>(axis.pad);
  const double message = backward ? units * 8 * 4 * 2 : units * 8 * (p.dtype == RNNK_FLOAT32 ? 4 : 2);
  const double turn = turn_us(p, team, cell_info(p.cell)->gates, backward);
  c.step_us = rounds * std::max(team.row_tiles * turn, turn + exchange_us(team, message));
  return c;
}

}  // namespace

Choice choose_team(const Problem& p, int64_t batch, bool backward, Exchange exchange, const int* blocks, int count,
                   Refusal* why) {
  const Wanted given;
  if (given.blocks > 0) blocks = &given.blocks, count = 1;
  Refusal reason{};
  int best = 0;
  double best_us = 0;
  for (int i = 0; i < count; ++i) {
    const Choice c = team_of(p, kNominalBatch, backward, exchange, blocks[i], given.row_tiles, &reason);
    if (c.team.blocks == 0 || (best > 0 && c.step_us >= best_us)) continue;
    best = blocks[i], best_us = c.step_us;
  }
  if (why) *why = reason;
  if (best == 0) return {};
  return team_of(p, batch, backward, exchange, best, given.row_tiles, &reason);
}

}  // namespace gpu
}  // namespace rnnk
