// The forward kernel of a team: a block multiplies its units' weights by the whole h, and sends the others its part of the new
// one. A step of 8 rows is one wait, one product, one block barrier, one pointwise part; while its messages travel, the other row
// tiles of the team take their turns.
#pragma once
#include "cuda/forward.cuh"
#include "cuda/team.cuh"

namespace rnnk {
namespace gpu {

template <class A>
struct TeamForwardParams {
  TeamCall<A> call;
  ForwardData<typename A::T> data;
  void *h[2], *fed[2];  // between launches: before step s in [s % 2]
};

// A message has h as the product's lanes read it: of a fragment (A::K units), 8 bytes for each lane in order.
constexpr int64_t kFragmentBytes = 256;

// Fragments of weights in the registers of a warp, 4 of each thread's 255 apiece; the rest are in shared memory. Cells with options
// need more registers for themselves, and so does tf32's one gate, whose words are many.
template <class A, class Cell>
constexpr int kHeld = Cell::kHasOptions                ? 16
                      : A::K == 8 && Cell::kGates == 1 ? 24
                                                       : 32;
constexpr int kTeamRing = 3;  // turns of gx in shared memory: one in use, two on their way

template <class A, class Cell>
struct TeamForwardSpace : TeamSpace<A, Cell::kGates> {
  using T = typename A::T;
  using Operand = typename A::Operand;
  using Base = TeamSpace<A, Cell::kGates>;
  static constexpr int F = kHeld<A, Cell> / Cell::kGates;
  Operand *h[2], *fed[2];  // [row tile][8][ld]: of this block's units
  T *state, *ring;         // [row tile][8][units], [kTeamRing][8][gate][units]
  T* bias[2];              // [gate][units]
  int64_t ld, units;

  static RNNK_HD int fragments(const Team& team) { return team.all * kTile / A::K; }
  static RNNK_HD int each(const Team& team) {  // fragments of a warp
    const int split = kTeamWarps / team.tiles;
    return (fragments(team) + split - 1) / split;
  }
  static RNNK_HD int in_shared(const Team& team) { return each(team) > F ? each(team) - F : 0; }  // of those

  RNNK_HD TeamForwardSpace(char* base, const Team& team, bool drops)
      : Base(base, team, fragments(team) * kFragmentBytes,
             int64_t{kTeamWarps} * in_shared(team) * Cell::kGates * kTile * A::K) {
    units = team.tiles * int64_t{kTile}, ld = units + 16 / int64_t{sizeof(Operand)};
    const int64_t rows = team.row_tiles * int64_t{kRows};
    for (int i = 0; i < 2; ++i) {
      h[i] = this->template take<Operand>(rows * ld);
      fed[i] = drops ? this->template take<Operand>(rows * ld) : h[i];
    }
    state = this->template take<T>(Cell::kStates > 1 ? rows * units : 0);
    ring = this->template take<T>(kTeamRing * kRows * Cell::kGates * units);
    for (T*& of_side : bias) of_side = this->template take<T>(Cell::kGates * units);
  }
};

template <class A, class Cell>
struct TeamForward {
  using T = typename A::T;
  using Operand = typename A::Operand;
  using Space = TeamForwardSpace<A, Cell>;
  using Mailbox = Post<A, Space>;
  static constexpr int G = Cell::kGates, F = Space::F, N = F < 8 ? F : 8, kFragment = kTile * A::K;

  // This warp's weights.
  struct Held {
    typename A::A fragment[F][G];
    const Operand* rest;  // those after the first F
    int first, count;
    RNNK_DEVICE void load(const TeamCall<A>& call, const Member& own, const Space& space) {
      const int fragments = Space::fragments(call.team), each = Space::each(call.team);
      first = static_cast<int>(least(fragments, own.part * each));
      count = own.has_tile() ? static_cast<int>(least(fragments, first + each)) - first : 0;
      const int64_t tile = own.head * call.team.all + own.tile0 + own.tile;
      const Operand* const from = call.weights + (tile * fragments + first) * (G * kFragment);
      RNNK_UNROLL
      for (int f = 0; f < F; ++f) {
        for (int g = 0; g < G; ++g) {
          fragment[f][g] = f < count ? A::load_a(from + (f * G + g) * kFragment) : typename A::A{};
        }
      }
      Operand* const to = space.weights + warp() * Space::in_shared(call.team) * (G * kFragment);
      rest = to;
      constexpr int n = 16 / sizeof(Operand);
      const int all = count > F ? (count - F) * (G * kFragment) : 0;
      for (int e = lane() * n; e < all; e += 32 * n) copy_async(to + e, from + F * G * kFragment + e);
    }
  };

  // The words of N fragments from `at` on that this lane multiplies.
  static RNNK_DEVICE void read(const Mailbox& mailbox, const char* at, int count, int f0, int64_t step,
                               uint64_t (&words)[N]) {
    const auto* const from = reinterpret_cast<const uint64_t*>(at) + lane();
    constexpr int apart = kFragmentBytes / 8;
    const Team& team = mailbox.call.team;
    if (team.exchange == Exchange::cluster) {
      for (int i = 0; i < N; ++i) words[i] = i < count ? from[i * apart] : 0;
      return;
    }
    for (int i = 0; i < N; ++i) words[i] = i < count ? load_relaxed(from + i * apart) : 0;
    if (team.exchange != Exchange::data) return;
    for (int i = 0; i < N; ++i) {
      Patience patience(mailbox.call.patience);
      while (i < count && (static_cast<uint32_t>(words[i]) == kNothingYet || words[i] >> 32 == kNothingYet)) {
        if (mailbox.gives_up(patience, (f0 + i) * A::K / kTile / team.tiles, step)) break;
        words[i] = load_relaxed(from + i * apart);
      }
    }
    sync_warp();
  }

  static RNNK_DEVICE void multiply(T (&sum)[G][4], const Held& held, const Mailbox& mailbox, const char* message,
                                   int64_t step) {
    const char* const at = message + held.first * kFragmentBytes;
    uint64_t words[N];
    RNNK_UNROLL
    for (int base = 0; base < F; base += N) {
      if (base >= held.count) break;
      read(mailbox, at + base * kFragmentBytes, held.count - base, held.first + base, step, words);
      RNNK_UNROLL
      for (int i = 0; i < N; ++i) {
        if (base + i >= F || base + i >= held.count) break;
        const typename A::B b = A::from_words(static_cast<uint32_t>(words[i]), static_cast<uint32_t>(words[i] >> 32));
        for (int g = 0; g < G; ++g) A::multiply(sum[g], held.fragment[base + i][g], b);
      }
    }
    for (int base = F; base < held.count; base += N) {
      read(mailbox, at + base * kFragmentBytes, held.count - base, held.first + base, step, words);
      for (int i = 0; i < N; ++i) {
        if (base + i >= held.count) break;
        const typename A::B b = A::from_words(static_cast<uint32_t>(words[i]), static_cast<uint32_t>(words[i] >> 32));
        const Operand* const weights = held.rest + (base + i - F) * (G * kFragment);
        for (int g = 0; g < G; ++g) A::multiply(sum[g], A::load_a(weights + g * kFragment), b);
      }
    }
  }

  static RNNK_DEVICE char* message_at(const Mailbox& mailbox, int row_tile, int64_t message) {
    const int64_t bytes = Space::fragments(mailbox.call.team) * kFragmentBytes;
    if (mailbox.call.team.exchange == Exchange::cluster) return mailbox.space.mailbox_of(message) + row_tile * bytes;
    return mailbox.call.mailbox + (mailbox.own.messages_of(row_tile, mailbox.heads) * mailbox.call.slots + message) * bytes;
  }

  // With a warp, after a sync_warp(): its two rows of a tile's 16 units (e: the first element, units innermost), to all peers.
  static RNNK_DEVICE void send(const Mailbox& mailbox, const Operand* rows, int row_tile, int64_t message, int e) {
    constexpr int per_row = 2 * kTile / A::K, pieces = 2 * per_row;  // of 16 bytes
    const int tile = e / (kTile * kRows), row0 = e / kTile % kRows;
    const Team& team = mailbox.call.team;
    const int peers = team.exchange == Exchange::cluster ? team.active() : 1;
    char* const to = message_at(mailbox, row_tile, message);
    for (int i = lane(); i < pieces * peers; i += 32) {
      const int row = row0 + i % pieces / per_row, piece = i % per_row;
      const auto* const words =
          reinterpret_cast<const uint32_t*>(rows + row * mailbox.space.ld + tile * kTile) + piece / 2 * 8 + piece % 2 * 2;
      const int64_t fragment = (mailbox.own.tile0 + tile) * int64_t{kTile} / A::K + piece / 2;
      const Quad quad{{words[0], words[4], words[1], words[5]}};  // two lanes' low and high words
      mailbox.send(quad, to, fragment * kFragmentBytes + row * 32 + piece % 2 * 16, mailbox.barrier(row_tile, message),
                   i / pieces);
    }
  }

  static RNNK_DEVICE void run(const TeamForwardParams<A>& p) {
    ForwardData<T> d = p.data;
    const TeamCall<A>& call = p.call;
    const Walk<T>& w = p.data.walk;
    const Axis& axis = w.hidden;
    const Member own(call, axis.heads);
    const bool drops = w.dropped != nullptr;
    const Space space(shared(), call.team, drops);
    const int units = own.tiles * kTile;  // of this block
    const int64_t column = own.head * axis.pad + own.tile0 * kTile;
    const Mailbox mailbox{call, own, space, axis.heads, static_cast<uint32_t>(Space::fragments(call.team) * kFragmentBytes)};
    mailbox.open();
    for (int i = thread(); i < own.row_tiles; i += kTeamThreads) {
      const Window all = window_of(w, own.first_of(i), own.count_of(i));
      space.windows[i] = {all.start > call.s0 ? all.start : call.s0, least(all.stop, call.s1)};
    }
    for (int i = thread(); w.lengths && i < own.count; i += kTeamThreads) space.lengths[i] = w.lengths[own.first + i];
    if (w.lengths) d.walk.lengths = space.lengths - own.first;
    for (int e = thread(); e < G * units; e += kTeamThreads) {
      const int64_t from = (own.head * G + e / units) * axis.pad + own.tile0 * kTile + e % units;
      space.bias[0][e] = p.data.b_ih[from], space.bias[1][e] = p.data.b_hh[from];
    }
    const int64_t bias_back = own.head * G * units + own.tile0 * kTile;
    d.b_ih = space.bias[0] - bias_back, d.b_hh = space.bias[1] - bias_back, d.bias_gate = units;
    Held held;
    held.load(call, own, space);
    copy_commit();
    const int rows = own.row_tiles * kRows, ld = static_cast<int>(space.ld);
    for (int e = thread(); e < rows * units; e += kTeamThreads) {
      const int row = e / units, i = e % units, to = row * ld + i;
      const bool any = row < own.count;
      const int64_t from = (own.first + row) * axis.padded() + column + i;
      for (int b = 0; b < 2; ++b) {
        space.h[b][to] = any ? static_cast<const Operand*>(p.h[b])[from] : Operand(0);
        if (drops) space.fed[b][to] = any ? static_cast<const Operand*>(p.fed[b])[from] : Operand(0);
      }
      if constexpr (Cell::kStates > 1) space.state[row * space.units + i] = any ? p.data.state[1][from] : T(0);
    }
    copy_wait<0>();
    sync_block();
    const int elements = kRows * units;
    // Message 0: what the first step starts from. A block without units has none to send.
    for (int row_tile = 0; row_tile < own.row_tiles && own.tiles > 0; ++row_tile) {
      const Window window = space.windows[row_tile];
      if (window.start >= window.stop) continue;
      const Operand* const from = (window.start & 1 ? space.fed[1] : space.fed[0]) + row_tile * kRows * space.ld;
      for (int e = thread(); e < elements; e += kTeamThreads) send(mailbox, from, row_tile, 0, e - lane());
      mailbox.sent(row_tile, 0);
    }
    d.ld_h = space.ld, d.ld_state = space.units, d.ld_gx = G * space.units, d.gx_gate = space.units;

    const int turns = own.tiles > 0 ? static_cast<int>(call.s1 - call.s0) * own.row_tiles : 0;
    const auto fetch = [&](int turn) {  // gx of a turn, in the background
      const int64_t s = call.s0 + turn / own.row_tiles;
      const int row_tile = turn % own.row_tiles;
      if (turn < turns && s >= space.windows[row_tile].start && s < space.windows[row_tile].stop) {
        T* const to = space.ring + turn % kTeamRing * (kRows * d.ld_gx);
        const int64_t row0 = (w.time(s) - p.data.t0) * w.batch + own.first_of(row_tile);
        constexpr int n = 16 / sizeof(T);
        const int each = static_cast<int>(own.count_of(row_tile)) * G * units;
        for (int e = thread() * n; e < each; e += kTeamThreads * n) {
          const int row = e / (G * units), gate = e / units % G, i = e % units;
          copy_async(  // path: fetch
              to + (row * G + gate) * space.units + i,
              p.data.gx + (row0 + row) * p.data.ld_gx + own.head * G * axis.pad + gate * axis.pad + own.tile0 * kTile + i);
        }
      }
      copy_commit();
    };
    fetch(0);
    fetch(1);
    for (int turn = 0; turn < turns; ++turn) {
      const int64_t s = call.s0 + turn / own.row_tiles;
      const int row_tile = turn % own.row_tiles;
      const Window window = space.windows[row_tile];
      const int64_t first = own.first_of(row_tile), count = own.count_of(row_tile);
      const bool lives = s >= window.start && s < window.stop;
      T* const sums = space.sums_of(turn);
      if (lives) {
        mailbox.wait(row_tile, s - window.start, s);
        T sum[G][4] = {};
        if (own.has_tile()) multiply(sum, held, mailbox, message_at(mailbox, row_tile, s - window.start), s);
        for (int g = 0; g < G; ++g) put_sums(sums + (warp() * G + g) * (kRows * kSumsLd), sum[g]);
      }
      copy_wait<1>();
      sync_block();  // the sums of this turn are there, and its gx; the slot of the turn before is free; path: begin
      fetch(turn + 2);
      const int64_t h_at = row_tile * kRows * space.ld, back = first * space.ld + column;
      d.h_from = (s & 1 ? space.h[1] : space.h[0]) + h_at - back, d.h_to = (s & 1 ? space.h[0] : space.h[1]) + h_at - back;
      Operand* const fed_to = (s & 1 ? space.fed[0] : space.fed[1]) + h_at;
      d.fed_from = (s & 1 ? space.fed[1] : space.fed[0]) + h_at - back, d.fed_to = fed_to - back;
      d.state[1] = space.state + row_tile * kRows * space.units - first * space.units - column;
      d.gx = space.ring + turn % kTeamRing * (kRows * d.ld_gx) - ((w.time(s) - d.t0) * w.batch + first) * d.ld_gx -
             own.head * d.ld_gx - own.tile0 * kTile;
      const bool broken = *space.broken != 0;
      for (int e = thread(); e < elements; e += kTeamThreads) {
        const int unit = e % kTile, row = e / kTile % kRows, tile = e / (kTile * kRows);
        const Place at{first + row, own.head, (own.tile0 + tile) * kTile + unit};
        if (row < count && at.i < axis.each) {
          if (lives) {
            T total[G];
            for (int g = 0; g < G; ++g) {
              const T* const part = sums + (tile * own.split * G + g) * (kRows * kSumsLd) + row * kSumsLd + unit;
              total[g] = part[0];                                                               // path: first
              for (int i = 1; i < own.split; ++i) total[g] += part[i * (G * kRows * kSumsLd)];  // path: more
              total[g] = or_nan(total[g], broken);
            }
            ForwardPoint<T, Cell, 0>::run(d, s, at, total);
            if (broken && d.walk.alive(s, at.row)) {  // whatever an activation, a mask or zoneout makes of a NaN
              store(d.h_to, w.dtype, at.row * d.ld_h + at.column(axis), or_nan(T(0), true));
              store3<T>(d.y, w.time(s), at.row, at.unit(axis), or_nan(T(0), true));
            }
          } else {
            store3<T>(d.y, w.time(s), at.row, at.unit(axis), T(0));
          }
        }
        if (s + 1 < window.stop && lives) {
          sync_warp();
          send(mailbox, fed_to, row_tile, s + 1 - window.start, e - lane());
        }
      }
      if (s + 1 < window.stop && lives) mailbox.sent(row_tile, s + 1 - window.start);
    }
    copy_wait<0>();
    sync_block();
    for (int e = thread(); e < rows * units; e += kTeamThreads) {
      const int row = e / units, i = e % units, from = row * ld + i;
      if (row >= own.count) continue;
      const int64_t to = (own.first + row) * axis.padded() + column + i;
      for (int b = 0; b < 2; ++b) {
        static_cast<Operand*>(p.h[b])[to] = space.h[b][from];
        if (drops) static_cast<Operand*>(p.fed[b])[to] = space.fed[b][from];
      }
      if constexpr (Cell::kStates > 1) p.data.state[1][to] = space.state[row * space.units + i];
    }
    mailbox.close();
  }
};

template <class A, class Cell>
RNNK_GLOBAL void RNNK_BOUNDS(kTeamThreads, 1) team_forward_kernel(TeamForwardParams<A> p) {
  TeamForward<A, Cell>::run(p);
}

}  // namespace gpu
}  // namespace rnnk
