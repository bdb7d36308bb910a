// The instances of a team's kernels and what the host knows of them: both strategies (cluster.cu, grid.cu) launch these.
#include "cuda/team.h"

#include <algorithm>
#include <cstdlib>

#include "cuda/dispatch.cuh"
#include "cuda/team_backward.cuh"
#include "cuda/team_forward.cuh"

namespace rnnk {
namespace gpu {
namespace {

// Arithmetic on matrix units, and cells of one exchange a step and one state beside h.
template <class A, class Cell>
constexpr bool kInTeams =
    Cell::kStages == 1 && Cell::kStage[0].product == Product::weight_hh && !Cell::kStage[0].norm && Cell::kStates <= 2;
template <class Cell>
constexpr bool kInTeams<void, Cell> = kInTeams<int, Cell>;
template <class A>
constexpr bool kMatrixUnits = A::K >= 8;

// Fn::run<A, Cell>(args...) of a problem that teams take.
template <class Fn>
struct Guarded {
  template <class A, class Cell, class... Args>
  static auto run(const Problem& p, Args&&... args) {
    if constexpr (kMatrixUnits<A> && kInTeams<A, Cell>) {
      return Fn::template run<A, Cell>(p, args...);
    } else {
      fail(RNNK_RUNTIME_ERROR, "no instance of a team's kernels");
      return Fn::template none<A, Cell>();
    }
  }
};

struct BytesOf {
  template <class A, class Cell>
  static int64_t run(const Problem& p, const Team& team) {
    const bool drops = may_drop(p, shape_of<Cell>());
    return std::max(TeamForwardSpace<A, Cell>(nullptr, team, drops).used, TeamBackwardSpace<A, Cell>(nullptr, team).used);
  }
  template <class, class>
  static int64_t none() {
    return 0;
  }
};

int64_t row_tiles(int64_t batch) { return (batch + kRows - 1) / kRows; }
int64_t flags_bytes(const Problem& p, const Team& team, int64_t batch) {
  return round_up(row_tiles(batch) * p.heads * team.blocks * int64_t{sizeof(uint32_t)}, 256);
}
int64_t message_bytes(const Problem& p, const Team& team, bool backward) {
  if (backward) return team.all * int64_t{team.active()} * kShareBytes;
  return team.all * int64_t{kTile} * kRows * item_size(p.dtype);
}
int64_t slots(int64_t seq_len, int64_t batch, bool backward) {
  return backward ? 2 : Layout::block_steps(seq_len, batch) + 1;
}

// Nanoseconds that a block waits for another before it gives up; a kernel under a sanitizer is slower by orders of magnitude.
uint64_t patience() {
  const char* const given = std::getenv("RNNKERN_GPU_WAIT_SECONDS");
  const double seconds = given ? std::strtod(given, nullptr) : 0;
  return static_cast<uint64_t>((seconds > 0 ? seconds : 20) * 1e9);
}

// run(first row, how many teams) until all rows have had their turn.
template <class Run>
void in_passes(const Team& team, int64_t batch, int64_t heads, int64_t at_once, const Run& run) {
  const int64_t groups = (row_tiles(batch) + team.row_tiles - 1) / team.row_tiles;
  const int64_t most = at_once > 0 ? std::max<int64_t>(1, at_once / heads) : groups;
  for (int64_t group = 0; group < groups; group += most) {
    run(group * team.row_tiles * kRows, std::min(most, groups - group) * heads);
  }
}

template <class A, class Base>
TeamCall<A> call_of(const Problem& p, const LayerCall& a, const Base& base, const Team& team, bool backward) {
  TeamCall<A> call{};
  call.team = team, call.batch = a.batch, call.patience = patience(), call.fault = fault_word_on_device(p.device_index);
  call.slots = slots(a.seq_len, a.batch, backward);
  char* const more = static_cast<char*>(a.workspace) + round_up(base.space.bytes, 256);
  call.flags = reinterpret_cast<uint32_t*>(more), call.mailbox = more + flags_bytes(p, team, a.batch);
  return call;
}

// Before a launch: no message has come.
template <class A>
void clear_mailboxes(const Problem& p, const TeamCall<A>& call, bool backward, void* stream) {
  const Team& team = call.team;
  if (team.exchange == Exchange::flags || team.exchange == Exchange::sync)
    clear(call.flags, static_cast<size_t>(flags_bytes(p, team, call.batch)), stream);
  if (team.exchange == Exchange::data) {
    fill(call.mailbox, 0xff,
         static_cast<size_t>(row_tiles(call.batch) * p.heads * call.slots * message_bytes(p, team, backward)), stream);
  }
}

Launch launch_of(const Team& team, int64_t teams, int64_t bytes, void* stream) {
  Launch how{teams * team.blocks, 1, kTeamThreads, bytes, stream};
  if (team.exchange == Exchange::cluster) how.cluster = team.blocks;
  else how.cooperative = true;
  return how;
}

struct ForwardOf {
  template <class A, class Cell>
  static void run(const Problem& p, const LayerCall& a, const Team& team, int64_t at_once) {
    Forward<A> f(p, a, shape_of<Cell>());
    TeamForwardParams<A> params{
        call_of<A>(p, a, f, team, false), f.data, {f.space.h[0], f.space.h[1]}, {f.fed[0], f.fed[1]}};
    params.call.weights = reinterpret_cast<const typename A::Operand*>(f.packed.w[0]);
    const int64_t bytes = TeamForwardSpace<A, Cell>(nullptr, team, f.data.walk.dropped != nullptr).used;
    f.run([&](int64_t s0, int64_t s1) {
      params.data = f.data, params.call.s0 = s0, params.call.s1 = s1;
      params.call.slots = s1 - s0 + 1;  // there is room for a block's, a part of one needs fewer
      clear_mailboxes(p, params.call, false, f.stream);
      in_passes(team, f.B, p.heads, at_once, [&](int64_t first_row, int64_t teams) {
        params.call.first_row = first_row;
        launch(team_forward_kernel<A, Cell>, launch_of(team, teams, bytes, f.stream), params, "team_forward_kernel");
      });
    });
  }
  template <class, class>
  static void none() {}
};

struct BackwardOf {
  template <class A, class Cell>
  static void run(const Problem& p, const LayerCall& a, const Team& team, int64_t at_once) {
    Backward<A> b(p, a, shape_of<Cell>());
    TeamBackwardParams<A> params{call_of<A>(p, a, b, team, true), b.data, nullptr};
    params.call.weights = reinterpret_cast<const typename A::Operand*>(b.packed.w_back[0]);
    const int64_t bytes = TeamBackwardSpace<A, Cell>(nullptr, team).used;
    // The driver walks step by step; this kernel takes a block's at its first.
    b.run([&](int64_t s, int64_t s0, int64_t s1) {
      if (s + 1 != s1) return;
      params.data = b.data, params.call.s1 = s1, params.call.s0 = s0;
      params.before = s1 < b.T_ ? b.space.dgh_before : nullptr;
      clear_mailboxes(p, params.call, true, b.stream);
      in_passes(team, b.B, p.heads, at_once, [&](int64_t first_row, int64_t teams) {
        params.call.first_row = first_row;
        launch(team_backward_kernel<A, Cell>, launch_of(team, teams, bytes, b.stream), params, "team_backward_kernel");
      });
    });
  }
  template <class, class>
  static void none() {}
};

struct ClustersOf {
  template <class A, class Cell>
  static int64_t run(const Problem& p, const Team& team) {
    const Launch how = launch_of(team, 1, team_bytes(p, team), nullptr);
    return std::min(gpu::clusters_at_once(reinterpret_cast<const void*>(team_forward_kernel<A, Cell>), how),
                    gpu::clusters_at_once(reinterpret_cast<const void*>(team_backward_kernel<A, Cell>), how));
  }
  template <class, class>
  static int64_t none() {
    return 0;
  }
};

struct OneExchange {
  template <class A, class Cell>
  static bool run(const Problem&) {
    return kInTeams<A, Cell>;
  }
};

}  // namespace

const char* not_one_exchange(const Problem& p) {
  if (cell_info(p.cell)->states > 2) return "it has room for c alone, not for the n and m of sLSTM";
  if (!with_cell<void, OneExchange>(p)) {
    return "layer norm, a projection, reset-before and IndRNN's step are not one product and one pointwise part";
  }
  if (p.dtype == RNNK_FLOAT64) return "it has no float64";
  if (p.dtype == RNNK_FLOAT32 && !p.tf32) return "it has float32 only with allow_tf32";
  return "";
}

int64_t team_bytes(const Problem& p, const Team& team) { return with_arithmetic<Guarded<BytesOf>, true>(p, team); }

int64_t team_mailbox_bytes(const Problem& p, const Team& team, int64_t seq_len, int64_t batch, bool backward) {
  if (team.exchange == Exchange::cluster) return 0;
  return 256 + flags_bytes(p, team, batch) +
         row_tiles(batch) * p.heads * slots(seq_len, batch, backward) * message_bytes(p, team, backward);
}

int64_t clusters_at_once(const Problem& p, const Team& team) {
  const OnDevice device(p.device_index);
  return with_arithmetic<Guarded<ClustersOf>, true>(p, team);
}

void team_forward(const Problem& p, const LayerCall& a, const Team& team, int64_t at_once) {
  with_arithmetic<Guarded<ForwardOf>, true>(p, a, team, at_once);
}
void team_backward(const Problem& p, const LayerCall& a, const Team& team, int64_t at_once) {
  with_arithmetic<Guarded<BackwardOf>, true>(p, a, team, at_once);
}

}  // namespace gpu
}  // namespace rnnk
