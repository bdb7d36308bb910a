// The kernel of BPTT of a team: a block multiplies the gradients of its own units' gates by their part of the transposed weights,
// which makes a share of the gradient of every unit's h; each unit's owner gets and adds up the shares, in the order of their
// senders. The weights on chip are as many as in the forward kernel, the messages half of what gathering all gates' would be.
#pragma once
#include "cuda/backward.cuh"
#include "cuda/team.cuh"

namespace rnnk {
namespace gpu {

template <class A>
struct TeamBackwardParams {
  TeamCall<A> call;
  BackwardData<typename A::T> data;
  const void* before;  // rows of dgh in step s1, or null: that is past the end
};

// A message has, for each tile of its receiver and each sender, the sums of a product as its lanes hold them: 16 bytes each.
constexpr int64_t kShareBytes = 512;

template <class A, class Cell>
struct TeamBackwardSpace : TeamSpace<A, 1> {
  using T = typename A::T;
  using Operand = typename A::Operand;
  using Base = TeamSpace<A, 1>;
  static constexpr int F = Cell::kHasOptions ? 16 : Cell::kGates == 1 ? 28 : 32;  // fragments in the registers of a warp
  static constexpr int G = Cell::kGates;
  Operand* near;  // dgh of the last step: [row tile][8][gate][units]
  T* dstate[2];   // [row tile][8][units]
  int64_t ld, units;

  static RNNK_HD int64_t fragments(const Team& team) {  // of a warp
    return (team.all + kTeamWarps - 1) / kTeamWarps * (G * team.tiles * int64_t{kTile} / A::K);
  }
  static RNNK_HD int64_t in_shared(const Team& team) { return fragments(team) > F ? fragments(team) - F : 0; }

  RNNK_HD TeamBackwardSpace(char* base, const Team& team)
      : Base(base, team, team.active() * team.tiles * kShareBytes, kTeamWarps * in_shared(team) * int64_t{kTile} * A::K) {
    units = team.tiles * int64_t{kTile}, ld = G * units + 16 / int64_t{sizeof(Operand)};
    const int64_t rows = team.row_tiles * int64_t{kRows};
    near = this->template take<Operand>(rows * ld);
    for (int i = 0; i < 2; ++i) dstate[i] = this->template take<T>(i < Cell::kStates ? rows * units : 0);
  }
};

template <class A, class Cell>
struct TeamBackward {
  using T = typename A::T;
  using Operand = typename A::Operand;
  using Space = TeamBackwardSpace<A, Cell>;
  using Mailbox = Post<A, Space, false>;
  using Point = BackwardPoint<A, Cell, 0>;
  static constexpr int G = Cell::kGates, F = Space::F, kFragment = kTile * A::K, kPerTile = kTile / A::K;

  // This warp's weights, in the order in which multiply() takes them: tiles warp, warp + 8... of the result, for each of them the
  // fragments of this block's gates.
  struct Held {
    typename A::A fragment[F];
    const Operand* rest;
    int each, count;  // fragments: of a tile, in all
    RNNK_DEVICE void load(const TeamCall<A>& call, const Member& own, const Space& space, int64_t head_fragments) {
      const int mine = (call.team.all - warp() + kTeamWarps - 1) / kTeamWarps;
      each = G * own.tiles * kPerTile, count = own.tiles > 0 && mine > 0 ? mine * each : 0;
      const auto from = [&](int j) {
        const int f = j % each, gate = f / (own.tiles * kPerTile), inner = f % (own.tiles * kPerTile);
        const int64_t tile = own.head * call.team.all + warp() + j / each * kTeamWarps;
        const int64_t fragment = gate * (head_fragments / G) + own.tile0 * kPerTile + inner;
        return call.weights + (tile * head_fragments + fragment) * kFragment;
      };
      RNNK_UNROLL
      for (int j = 0; j < F; ++j) fragment[j] = j < count ? A::load_a(from(j)) : typename A::A{};
      Operand* const to = space.weights + warp() * Space::in_shared(call.team) * kFragment;
      rest = to;
      constexpr int n = 16 / sizeof(Operand);
      for (int j = F; j < count; ++j) {
        const Operand* const at = from(j);
        for (int e = lane() * n; e < kFragment; e += 32 * n) copy_async(to + (j - F) * kFragment + e, at + e);
      }
    }
  };

  static RNNK_DEVICE char* message_at(const Mailbox& mailbox, int row_tile, int64_t message) {
    const Team& team = mailbox.call.team;
    if (team.exchange == Exchange::cluster)
      return mailbox.space.mailbox_of(message) + row_tile * (team.active() * team.tiles * kShareBytes);
    return mailbox.call.mailbox + (mailbox.own.messages_of(row_tile, mailbox.heads) * 2 + message % 2) *
                                      (team.all * int64_t{team.active()} * kShareBytes);
  }
  // Where this block's share in a tile of this warp's lies in a message, this lane's 16 bytes, and whose tile it is: from one tile to
  // the next without a multiplication. In a cluster the message is the receiver's, and has its tiles alone.
  struct Outlet {
    int at, inner, peer, apart, rest, split, tiles;
    RNNK_DEVICE explicit Outlet(const Mailbox& mailbox) {
      const Team& team = mailbox.call.team;
      const int of_tile = team.active() * static_cast<int>(kShareBytes);
      const bool cluster = team.exchange == Exchange::cluster;
      split = mailbox.own.split, tiles = team.tiles, rest = kTeamWarps % tiles;
      inner = warp() % tiles, peer = warp() / tiles;
      apart = cluster ? of_tile : kTeamWarps * of_tile;
      at = (cluster ? inner : warp()) * of_tile + mailbox.own.rank * static_cast<int>(kShareBytes) + lane() * 16;
    }
    RNNK_DEVICE void next(bool cluster) {
      if (!cluster) {
        at += apart;
        return;
      }
      const int before = inner;
      inner += rest, peer += split;
      if (inner >= tiles) inner -= tiles, ++peer;
      at += (inner - before) * apart;
    }
  };

  // The product of a row tile's dgh, its shares sent as they are ready. to: message_at().
  static RNNK_DEVICE void multiply(const Held& held, const Mailbox& mailbox, Outlet outlet, int row_tile, char* to,
                                   uint64_t* barrier) {
    const typename A::Rows rows(mailbox.space.near + row_tile * kRows * mailbox.space.ld, mailbox.space.ld, kRows);
    const bool cluster = mailbox.call.team.exchange == Exchange::cluster;
    T sum[1][4] = {};
    int f = 0;
    const auto take = [&](const typename A::A& weights) {
      A::multiply(sum[0], weights, A::load_b(rows, f * A::K));  // path: product
      if (++f < held.each) return;
      Quad quad;
      for (int i = 0; i < 4; ++i) quad.word[i] = float_to_bits(sum[0][i]);
      mailbox.send(quad, to, outlet.at, barrier, outlet.peer);
      outlet.next(cluster);
      for (T& v : sum[0]) v = T(0);
      f = 0;
    };
    RNNK_UNROLL
    for (int j = 0; j < F; ++j) {
      if (j >= held.count) break;
      take(held.fragment[j]);
    }
    for (int j = F; j < held.count; ++j) take(A::load_a(held.rest + (j - F) * kFragment));
  }

  // The blocks whose shares this warp adds up in its tile.
  struct Peers {
    int first, last;
    RNNK_DEVICE explicit Peers(const Mailbox& mailbox) : first(0), last(0) {
      if (!mailbox.own.has_tile()) return;
      const int all = mailbox.call.team.active(), each = (all + mailbox.own.split - 1) / mailbox.own.split;
      first = mailbox.own.part * each, last = static_cast<int>(least(all, first + each));
    }
  };
  static RNNK_DEVICE void add_up(const Mailbox& mailbox, const Peers& peers, T (&sum)[4], int row_tile, int64_t message) {
    const Team& team = mailbox.call.team;
    const bool cluster = team.exchange == Exchange::cluster;
    const int tile = mailbox.own.tile + (cluster ? 0 : mailbox.own.tile0);
    const auto* from =
        reinterpret_cast<const Quad*>(message_at(mailbox, row_tile, message) + int64_t{tile} * team.active() * kShareBytes) +
        lane() + peers.first * (kShareBytes / 16);
    for (int rank = peers.first; rank < peers.last; ++rank, from += kShareBytes / 16) {
      const Quad quad = cluster ? *from : load_relaxed(from);
      for (int i = 0; i < 4; ++i) sum[i] += bits_to_float(quad.word[i]);
    }
  }

  static RNNK_DEVICE void run(const TeamBackwardParams<A>& p) {
    BackwardData<T> d = p.data;
    const TeamCall<A>& call = p.call;
    const Walk<T>& w = p.data.walk;
    const Axis& axis = w.hidden;
    const Member own(call, axis.heads);
    const Space space(shared(), call.team);
    const int units = own.tiles * kTile;
    const int64_t column = own.head * axis.pad + own.tile0 * kTile;
    const Mailbox mailbox{call, own, space, axis.heads, static_cast<uint32_t>(own.tiles * call.team.active() * kShareBytes)};
    mailbox.open();
    const int64_t lowest = call.s0 == 0 ? -1 : call.s0;
    for (int i = thread(); i < own.row_tiles; i += kTeamThreads) {  // steps are walked from stop - 1 down to start
      const Window all = window_of(w, own.first_of(i), own.count_of(i));
      space.windows[i] = {all.start - 1 > lowest ? all.start - 1 : lowest, least(all.stop, call.s1)};
    }
    for (int i = thread(); w.lengths && i < own.count; i += kTeamThreads) space.lengths[i] = w.lengths[own.first + i];
    if (w.lengths) d.walk.lengths = space.lengths - own.first;
    Held held;
    held.load(call, own, space, G * axis.pad / A::K);
    copy_commit();
    const int rows = own.row_tiles * kRows, ld = static_cast<int>(space.ld);
    for (int e = thread(); e < rows * G * units; e += kTeamThreads) {
      const int row = e / (G * units), gate = e / units % G, i = e % units;
      const bool any = p.before && row < own.count;
      const int64_t from =
          ((own.first + row) * axis.heads + own.head) * G * axis.pad + gate * axis.pad + own.tile0 * kTile + i;
      space.near[row * ld + gate * units + i] = any ? static_cast<const Operand*>(p.before)[from] : Operand(0);
    }
    const auto move_states = [&](bool in) {
      for (int e = thread(); e < rows * units; e += kTeamThreads) {
        const int row = e / units, i = e % units;
        if (row >= own.count) continue;
        for (int k = 0; k < Cell::kStates; ++k) {
          T& near = space.dstate[k][row * space.units + i];
          T& far = p.data.dstate[k][(own.first + row) * axis.padded() + column + i];
          if (in) near = far;
          else far = near;
        }
      }
    };
    move_states(true);
    copy_wait<0>();
    sync_block();
    const Outlet outlet(mailbox);
    const Peers peers(mailbox);
    // Message 0: through the step before this launch's first, or zeros.
    for (int row_tile = 0; row_tile < own.row_tiles && own.tiles > 0; ++row_tile) {
      if (space.windows[row_tile].start >= space.windows[row_tile].stop) continue;
      multiply(held, mailbox, outlet, row_tile, message_at(mailbox, row_tile, 0), mailbox.barrier(row_tile, 0));
      mailbox.sent(row_tile, 0);
    }
    d.ld_near[0] = space.ld, d.near_gate[0] = units;  // gates beside each other, as the product takes them
    for (int k = 0; k < Cell::kStates; ++k) d.ld_dstate[k] = space.units;

    const int turns = own.tiles > 0 ? static_cast<int>(call.s1 - lowest) * own.row_tiles : 0;
    const int elements = kRows * units;
    Turn now(call.s1 - 1);
    for (int turn = 0; turn < turns; ++turn, now.next(own.row_tiles, -1)) {
      const int64_t s = now.s;
      const int row_tile = now.row_tile;
      const Window window = space.windows[row_tile];
      const int64_t first = own.first_of(row_tile), message = window.stop - 1 - s;
      const int count = static_cast<int>(own.count_of(row_tile));
      const bool lives = s >= window.start && s < window.stop;
      d.near[0] = space.near + (row_tile * kRows - first) * space.ld - own.tile0 * kTile;
      for (int k = 0; k < Cell::kStates; ++k) {
        d.dstate[k] = space.dstate[k] + (row_tile * kRows - first) * space.units - column;
      }
      char* const to = message_at(mailbox, row_tile, message + 1);
      uint64_t* const barrier = mailbox.barrier(row_tile, message + 1);
      T* const sums = space.sums_of(turn);
      for (int e = thread() * kTile; e < elements; e += kTeamThreads * kTile) {
        const int row = e / kTile % kRows, tile = e / (kTile * kRows);
        if (row < count) Point::prefetch_step(d, s - 2, Place{first + row, own.head, (own.tile0 + tile) * kTile});
      }
      if (lives) {
        mailbox.wait(row_tile, message, s, peers.first, peers.last);
        T sum[4] = {};
        add_up(mailbox, peers, sum, row_tile, message);
        put_sums(sums + warp() * (kRows * kSumsLd), sum);
      }
      sync_block();  // path: begin
      for (int e = thread(); e < elements; e += kTeamThreads) {
        const int unit = e % kTile, row = e / kTile % kRows, tile = e / (kTile * kRows);
        const Place at{first + row, own.head, (own.tile0 + tile) * kTile + unit};
        if (row >= count || at.i >= axis.each) continue;
        if (lives) {
          T total[1];
          add_parts(sums + tile * own.split * (kRows * kSumsLd) + row * kSumsLd + unit, own.split, total);
          total[0] = or_nan(total[0], *space.broken != 0);
          Point::run(d, s, at, total);
        } else if (s >= 0) {
          Point::nothing(d, at, (w.time(s) - d.t0) * w.batch + at.row);
        }
      }
      if (!lives || s <= window.start) continue;
      sync_block();  // the gradients of this turn are there
      multiply(held, mailbox, outlet, row_tile, to, barrier);
      mailbox.sent(row_tile, message + 1);
    }
    sync_block();
    move_states(false);
    mailbox.close();
  }
};

template <class A, class Cell>
RNNK_GLOBAL void RNNK_BOUNDS(kTeamThreads, 1) team_backward_kernel(TeamBackwardParams<A> p) {
  TeamBackward<A, Cell>::run(p);
}

}  // namespace gpu
}  // namespace rnnk
