// The record of a strategy of teams: Strategy::choose(problem, batch, backward, refusal), and what a
// GPU lacks for it (Strategy::unable(facts), or "").
#pragma once
#include <algorithm>
#include <cstdio>

#include "cuda/dispatch.cuh"
#include "cuda/team.h"

namespace rnnk {
namespace gpu {

// Any batch fits as soon as one row does; but the choice can be overridden between the plan and its calls.
inline Choice fitting(const Choice& c) {
  if (c.team.blocks == 0) fail(RNNK_NOT_SUPPORTED, "RNNKERN_GPU_TEAM: no such team fits this GPU");
  return c;
}

template <class Strategy>
constexpr Kernel team_kernel(const char* name) {
  Kernel kernel = common_record<true>(name);
  kernel.accepts = [](const Problem& p, char* reason, int64_t size) {
    const auto decline = [&](const char* why) {
      std::snprintf(reason, static_cast<size_t>(size), "%s", why);
      return false;
    };
    const char* why = cannot_run(p);
    if (!*why) why = not_one_exchange(p);
    const Facts& f = facts(p.device_index);
    if (!*why) why = Strategy::unable(f);
    if (*why) return decline(why);
    Refusal refusal{};
    if (Strategy::choose(p, 1, false, &refusal).team.blocks > 0) return true;
    const auto units = static_cast<long long>(p.hidden_size / p.heads), most = static_cast<long long>(f.shared_per_block);
    if (refusal.blocks == 0) {
      std::snprintf(reason, static_cast<size_t>(size),
                    "a head of %lld units is too large for its teams: a block has at most %d units, and the GPU %d "
                    "multiprocessors",
                    units, kMostTiles * kTile, f.multiprocessors);
    } else if (refusal.bytes > f.shared_per_block) {
      std::snprintf(reason, static_cast<size_t>(size),
                    "a head of %lld units needs %lld bytes of shared memory in each of %d blocks, a block has %lld", units,
                    static_cast<long long>(refusal.bytes), refusal.blocks, most);
    } else {
      std::snprintf(
          reason, static_cast<size_t>(size),
          "%lld heads of %lld units, in teams of %d blocks and more, do not run side by side on %d multiprocessors",
          static_cast<long long>(p.heads), units, refusal.blocks, f.multiprocessors);
    }
    return false;
  };
  kernel.estimate = [](const Problem& p, int64_t seq_len, int64_t batch, bool backward, int) {
    const double step = Strategy::choose(p, batch, backward).step_us;
    return around_steps_us(Layout(p, shape_of_problem(p)), seq_len, batch, backward) + static_cast<double>(seq_len) * step;
  };
  kernel.share = [](const Problem& p, int64_t batch, bool backward) {
    const Team team = Strategy::choose(p, batch, backward).team;
    if (team.blocks == 0) return 1.0;
    const int64_t rows = int64_t{team.row_tiles} * kRows, blocks = (batch + rows - 1) / rows * p.heads * team.blocks;
    return std::min(1.0, static_cast<double>(blocks) / facts(p.device_index).multiprocessors);
  };
  kernel.bytes = [](const Problem& p, Space space, int64_t seq_len, int64_t batch) {
    const int64_t bytes = bytes_of(p, space, seq_len, batch);
    if (space == Space::packed || space == Space::reserve) return bytes;
    const bool backward = space == Space::backward;
    const Team team = Strategy::choose(p, batch, backward).team;
    return round_up(bytes, 256) + team_mailbox_bytes(p, team, seq_len, batch, backward);
  };
  kernel.forward = [](const Problem& p, const LayerCall& a) {
    const OnDevice device(p.device_index);
    const Choice c = fitting(Strategy::choose(p, a.batch, false));
    team_forward(p, a, c.team, c.at_once);
  };
  kernel.backward = [](const Problem& p, const LayerCall& a) {
    const OnDevice device(p.device_index);
    const Choice c = fitting(Strategy::choose(p, a.batch, true));
    team_backward(p, a, c.team, c.at_once);
  };
  return kernel;
}

}  // namespace gpu
}  // namespace rnnk
