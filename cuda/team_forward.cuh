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
  using Mailbox = Post<A, Space, true>;
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
    const auto is_there = [](uint64_t word) {
      return static_cast<uint32_t>(word) != kNothingYet && word >> 32 != kNothingYet;
    };
    Patience patience(mailbox.call.patience);
    for (int late = 0; late >= 0;) {
      late = -1;
      RNNK_UNROLL
      for (int i = 0; i < N; ++i) {
        if (i >= count || is_there(words[i])) continue;
        words[i] = load_relaxed(from + i * apart);
        if (!is_there(words[i])) late = i;
      }
      if (late >= 0 && mailbox.gives_up(patience, (f0 + late) * A::K / kTile / team.tiles, step)) break;
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

  // Where a warp's two rows of a tile's 16 units go in a message (e: the first element, units innermost), and the 16-byte pieces of
  // them that this lane sends first.
  struct Parcel {
    static constexpr int per_row = 2 * kTile / A::K, pieces = 2 * per_row;
    int words, at;  // of the rows that are sent, as 4 bytes; of the message, in bytes
    RNNK_DEVICE Parcel(const Mailbox& mailbox, int e) {
      const int tile = e / (kTile * kRows), row = e / kTile % kRows + lane() % pieces / per_row, piece = lane() % per_row;
      const int fragment = (mailbox.own.tile0 + tile) * kTile / A::K + piece / 2;
      words = (row * static_cast<int>(mailbox.space.ld) + tile * kTile) * static_cast<int>(sizeof(Operand)) / 4 +
              piece / 2 * 8 + piece % 2 * 2;
      at = fragment * static_cast<int>(kFragmentBytes) + row * 32 + piece % 2 * 16;
    }
  };
  // With a warp, after a sync_warp(): to all peers. to: message_at().
  static RNNK_DEVICE void send(const Mailbox& mailbox, const Parcel& parcel, const Operand* rows, char* to,
                               uint64_t* barrier) {
    const Team& team = mailbox.call.team;
    const int peers = team.exchange == Exchange::cluster ? team.active() : 1;
    for (int i = lane(); i < Parcel::pieces * peers; i += 32) {
      const auto* const words = reinterpret_cast<const uint32_t*>(rows) + parcel.words;
      const Quad quad{{words[0], words[4], words[1], words[5]}};  // two lanes' low and high words
      mailbox.send(quad, to, parcel.at, barrier, i / Parcel::pieces);
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
      for (int e = thread(); e < elements; e += kTeamThreads) {
        send(mailbox, Parcel(mailbox, e - lane()), from, message_at(mailbox, row_tile, 0), mailbox.barrier(row_tile, 0));
      }
      mailbox.sent(row_tile, 0);
    }
    d.ld_h = space.ld, d.ld_state = space.units, d.ld_gx = G * space.units, d.gx_gate = space.units;

    using Point = ForwardPoint<A, Cell, 0>;
    const int turns = own.tiles > 0 ? static_cast<int>(call.s1 - call.s0) * own.row_tiles : 0;
    Turn ahead(call.s0);
    const auto fetch = [&](int turn) {  // gx of a turn, in the background: a row for each warp
      static_assert(kTeamWarps == kRows);
      const int64_t s = ahead.s;
      const int row_tile = ahead.row_tile;
      if (turn < turns && s >= space.windows[row_tile].start && s < space.windows[row_tile].stop &&
          warp() < own.count_of(row_tile)) {
        T* const to = space.ring + (ahead.slot * kRows + warp()) * (G * space.units);
        const int64_t row = (w.time(s) - p.data.t0) * w.batch + own.first_of(row_tile) + warp();
        const T* const from = p.data.gx + row * p.data.ld_gx + own.head * G * axis.pad + own.tile0 * kTile;
        constexpr int n = 16 / sizeof(T);
        for (int g = 0; g < G; ++g) {
          for (int i = lane() * n; i < units; i += 32 * n) {
            copy_async(to + g * space.units + i, from + g * axis.pad + i);  // path: fetch
          }
        }
      }
      copy_commit();
      ahead.next(own.row_tiles, 1);
    };
    fetch(0);
    fetch(1);
    const Parcel parcel(mailbox, thread() - lane());
    const int units_of_peer = call.team.tiles * kTile;  // the peers whose units this warp multiplies
    const int first_peer = held.first * A::K / units_of_peer;
    const int end_peer = ((held.first + held.count) * A::K + units_of_peer - 1) / units_of_peer;
    Turn now(call.s0);
    for (int turn = 0; turn < turns; ++turn, now.next(own.row_tiles, 1)) {
      const int64_t s = now.s;
      const int row_tile = now.row_tile;
      const Window window = space.windows[row_tile];
      const int64_t first = own.first_of(row_tile), h_at = row_tile * kRows * space.ld, back = first * space.ld + column;
      const int count = static_cast<int>(own.count_of(row_tile));
      const bool lives = s >= window.start && s < window.stop, sends = lives && s + 1 < window.stop;
      const int64_t message = s - window.start;
      d.h_from = (s & 1 ? space.h[1] : space.h[0]) + h_at - back, d.h_to = (s & 1 ? space.h[0] : space.h[1]) + h_at - back;
      Operand* const fed_to = (s & 1 ? space.fed[0] : space.fed[1]) + h_at;
      d.fed_from = (s & 1 ? space.fed[1] : space.fed[0]) + h_at - back, d.fed_to = fed_to - back;
      d.state[1] = space.state + row_tile * kRows * space.units - first * space.units - column;
      d.gx = space.ring + now.slot * (kRows * d.ld_gx) - ((w.time(s) - d.t0) * w.batch + first) * d.ld_gx -
             own.head * d.ld_gx - own.tile0 * kTile;
      char* const to = message_at(mailbox, row_tile, message + 1);
      uint64_t* const barrier = mailbox.barrier(row_tile, message + 1);
      T* const sums = space.sums_of(turn);
      if (lives) {
        mailbox.wait(row_tile, message, s, first_peer, end_peer);
        T sum[G][4] = {};
        if (own.has_tile()) multiply(sum, held, mailbox, message_at(mailbox, row_tile, message), s);
        for (int g = 0; g < G; ++g) put_sums(sums + (warp() * G + g) * (kRows * kSumsLd), sum[g]);
      }
      copy_wait<1>();
      sync_block();  // the sums of this turn are there, and its gx; the slot of the turn before is free; path: begin
      const bool broken = *space.broken != 0;
      Parcel own_part = parcel;
      for (int e = thread(); e < elements; e += kTeamThreads) {
        const int unit = e % kTile, row = e / kTile % kRows, tile = e / (kTile * kRows);
        const Place at{first + row, own.head, (own.tile0 + tile) * kTile + unit};
        const bool exists = row < count && at.i < axis.each, takes = exists && lives && d.walk.alive(s, at.row);
        Step<Cell, typename Point::V> q;
        T y = 0;
        if (takes) {
          T total[G];
          add_parts(sums + tile * own.split * G * (kRows * kSumsLd) + row * kSumsLd + unit, own.split, total);
          for (int g = 0; g < G; ++g) total[g] = or_nan(total[g], broken);
          Point::compute(d, s, at, total, q);
          y = Point::put_h(d, s, at, q.s_new[0]);
          if (broken) {  // whatever an activation, a mask or zoneout makes of a NaN
            y = or_nan(T(0), true);
            store(d.h_to, A::dtype, at.row * d.ld_h + at.column(axis), y);  // path: state
            if (drops) store(d.fed_to, A::dtype, at.row * d.ld_h + at.column(axis), y);
          }
        }
        if (sends) {
          sync_warp();
          send(mailbox, own_part, fed_to, to, barrier);
          // The next element of this thread: two tiles on.
          own_part.words += kTeamThreads / (kTile * kRows) * kTile * static_cast<int>(sizeof(Operand)) / 4;
          own_part.at += kTeamThreads / (kTile * kRows) * (kTile / A::K) * static_cast<int>(kFragmentBytes);
        }
        if (takes) Point::put_away(d, s, at, q, y);
        else if (exists) Point::put_y(d, s, at, T(0));
      }
      if (sends) mailbox.sent(row_tile, message + 1);
      fetch(turn + 2);  // the slot is that of the turn before, which all threads have left
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
