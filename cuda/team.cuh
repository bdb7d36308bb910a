// What the kernels of a team share (team.h): who does what, weights in registers and shared memory, waiting with a bound, messages.
//
// A message is what a block tells its peers of one step and 8 rows. Messages of a row tile have numbers, 0, 1, 2...; two mailboxes, by
// the parity of the number, are enough: a block writes message n + 2 only when it has all messages n + 1, and each of those was
// written by a block that had read messages n.
#pragma once
#include "cuda/exchange.cuh"
#include "cuda/fault.h"
#include "cuda/shared_space.h"
#include "cuda/team.h"
#include "cuda/tile.cuh"

namespace rnnk {
namespace gpu {

constexpr uint32_t kNothingYet = 0xffffffffu;  // in every word of a message that has not come (Exchange::data)

template <class A>
struct TeamCall {
  Team team;
  const typename A::Operand* weights;
  int64_t s0, s1, first_row, batch;
  char* mailbox;    // of row tile, or null: messages go into shared memory
  int64_t slots;    // messages of a row tile that lie beside each other
  uint32_t* flags;  // [row tile][block]: messages sent
  volatile uint64_t* fault;
  uint64_t patience;  // nanoseconds
};

// Counts the polls of one wait.
struct Patience {
  uint64_t limit, begin = 0;
  int polls = 0;
  RNNK_DEVICE explicit Patience(uint64_t limit) : limit(limit) {}
  RNNK_DEVICE bool expired() {
    if (++polls % 64 != 0 && limit != 0) return false;  // reading the clock takes longer than most waits
    const uint64_t now = global_timer();
    if (begin == 0) begin = now;
    else poll_pause();
    return now - begin >= limit;
  }
};

// A block and its row tiles.
struct Member {
  int64_t head, first, count;  // rows
  int64_t messages;            // place of its first row tile among all that have messages
  int rank, tiles, tile0, row_tiles;
  int split, tile, part;  // of this warp: which tile, and which of `split` parts of its terms
  template <class A>
  RNNK_DEVICE Member(const TeamCall<A>& c, int64_t heads) {
    const Team& team = c.team;
    const int64_t index = block_x() / team.blocks;
    rank = static_cast<int>(block_x() % team.blocks);
    head = index % heads;
    first = c.first_row + index / heads * (team.row_tiles * kRows);
    count = least(c.batch - first, team.row_tiles * kRows);
    messages = first / kRows * heads + head;
    row_tiles = static_cast<int>((count + kRows - 1) / kRows);
    tiles = team.tiles_of(rank), tile0 = rank * team.tiles;
    split = kTeamWarps / team.tiles;
    tile = warp() / split, part = warp() % split;
  }
  RNNK_DEVICE bool has_tile() const { return tile < tiles; }
  RNNK_DEVICE int64_t first_of(int row_tile) const { return first + row_tile * kRows; }
  RNNK_DEVICE int64_t count_of(int row_tile) const { return least(kRows, count - row_tile * kRows); }
  RNNK_DEVICE int64_t messages_of(int row_tile, int64_t heads) const { return messages + row_tile * heads; }
};

constexpr int kTeamRing = 3;  // turns of gx in shared memory: one in use, two on their way

// The step and row tile of a turn, and its place in a ring. Counted, since a division by a number known at run time takes 100 cycles.
struct Turn {
  int64_t s;
  int row_tile = 0, slot = 0;
  RNNK_DEVICE explicit Turn(int64_t first) : s(first) {}
  RNNK_DEVICE void next(int row_tiles, int step) {
    if (++row_tile == row_tiles) row_tile = 0, s += step;
    if (++slot == kTeamRing) slot = 0;
  }
};

// The steps [start, stop) of a row tile outside of which none of its rows lives.
struct Window {
  int64_t start, stop;
};
template <class T>
RNNK_DEVICE Window window_of(const Walk<T>& w, int64_t first, int64_t count) {
  if (!w.lengths) return {0, w.steps};
  int64_t longest = 0;
  for (int64_t r = 0; r < count; ++r) longest = w.length(first + r) > longest ? w.length(first + r) : longest;
  return w.reverse ? Window{w.steps - longest, w.steps} : Window{0, longest};
}

// What every kernel of a team has in shared memory.
template <class A, int G>
struct TeamSpace : SharedSpace {
  using T = typename A::T;
  using Operand = typename A::Operand;
  volatile int* broken;  // a wait of this block has expired; threads write and read it as they come
  Window* windows;       // [row tile]
  int64_t* lengths;      // of the team's rows: an acquire would make every step fetch them from far away again
  uint64_t* full;        // [mailbox][row tile]
  char* mailbox[2];      // [row tile][message]
  T* sums;               // [2][warp][G][kRows * kSumsLd]
  Operand* weights;
  RNNK_HD TeamSpace(char* base, const Team& team, int64_t message_bytes, int64_t weights_size) : SharedSpace(base) {
    const bool cluster = team.exchange == Exchange::cluster;
    broken = this->template take<int>(1);
    windows = this->template take<Window>(team.row_tiles);
    lengths = this->template take<int64_t>(team.row_tiles * kRows);
    full = this->template take<uint64_t>(cluster ? 2 * team.row_tiles : 0);
    for (int i = 0; i < 2; ++i) mailbox[i] = this->template take<char>(cluster ? team.row_tiles * message_bytes : 0);
    sums = this->template take<T>(2 * kTeamWarps * G * kRows * kSumsLd);
    weights = this->template take<Operand>(weights_size);
  }
  RNNK_DEVICE T* sums_of(int turn) const { return sums + turn % 2 * (kTeamWarps * G * kRows * kSumsLd); }
  RNNK_DEVICE char* mailbox_of(int64_t message) const { return message % 2 ? mailbox[1] : mailbox[0]; }
};

// A block's waiting and sending, the same forward and backward. may_be_data: a call may have Exchange::data.
template <class A, class Space, bool may_be_data>
struct Post {
  const TeamCall<A>& call;
  const Member& own;
  const Space& space;
  int64_t heads;
  uint32_t expected;  // bytes of a message that peers send to this block (cluster)

  RNNK_DEVICE uint64_t* barrier(int row_tile, int64_t message) const {
    return space.full + message % 2 * call.team.row_tiles + row_tile;
  }
  RNNK_DEVICE uint32_t* flag(int row_tile, int rank) const {  // 0 is the one of Exchange::sync
    return call.flags + own.messages_of(row_tile, heads) * call.team.blocks + rank;
  }

  // With all threads, before anything else; afterwards peers may send.
  RNNK_DEVICE void open() const {
    if (thread() == 0) *space.broken = 0;
    if (call.team.exchange == Exchange::cluster) {
      for (int i = thread(); i < 2 * call.team.row_tiles; i += kTeamThreads) {
        mbarrier_init(space.full + i, 1);
        if (own.tiles > 0) mbarrier_expect(space.full + i, expected);
      }
      cluster_arrive_release();
      cluster_wait_acquire();
    } else {
      sync_block();
    }
  }
  // With all threads, after everything: shared memory lives until all peers have sent. Their messages have come, since they were
  // waited for, but where a wait was given up: what is on its way then gets a millisecond.
  RNNK_DEVICE void close() const {
    if (call.team.exchange != Exchange::cluster) return;
    cluster_arrive_release();
    cluster_wait_acquire();
    if (!*space.broken) return;
    for (const uint64_t begin = global_timer(); global_timer() - begin < 1000000;) poll_pause();
  }

  // After a poll in vain: whether to wait no longer, since time is up, or was before.
  RNNK_DEVICE bool gives_up(Patience& patience, int whom, int64_t step) const {
    if (*space.broken) return true;
    if (!patience.expired()) return false;
    *space.broken = 1;
    *call.fault = WaitFault{own.rank, whom, step}.word();
    return true;
  }

  // All threads call it. A warp waits for the messages of the peers [from, to), which it reads; the warps of a block together wait for
  // all peers. With Exchange::data it waits where it reads words.
  RNNK_DEVICE void wait(int row_tile, int64_t message, int64_t step, int from, int to) const {
    const Team& team = call.team;
    if (team.exchange == Exchange::cluster) {
      uint64_t* const at = barrier(row_tile, message);
      const auto parity = static_cast<uint32_t>(message / 2 % 2);
      // Once a wait was given up, phases are behind the messages, and their parities say nothing.
      const bool broken = *space.broken != 0;
      bool passed = mbarrier_test(at, parity) && !broken;
      for (Patience patience(call.patience); !passed && !gives_up(patience, kAnyPeer, step);)
        passed = mbarrier_try_wait(at, parity);
      if (thread() == 0) {  // message + 2
        if (passed) mbarrier_expect(at, expected);
        else mbarrier_expect_more(at, expected);  // peers go on: what they send must not be counted below what is expected
      }
    } else if (team.exchange != Exchange::data) {
      const bool one = team.exchange == Exchange::sync;
      const int64_t count = (message + 1) * (one ? team.active() : 1);
      if (one) from = 0, to = 1;
      for (int rank = from + lane(); rank < to; rank += 32) {
        Patience patience(call.patience);
        while (static_cast<int64_t>(load_acquire(flag(row_tile, rank))) < count &&
               !gives_up(patience, one ? kAnyPeer : rank, step)) {
        }
      }
    }
    sync_warp();
  }

  // 16 bytes of a message, to block `to`; at: where they lie in the message. barrier_at: this block's own barrier for that message.
  RNNK_DEVICE void send(Quad quad, char* message, int64_t at, uint64_t* barrier_at, int to) const {
    if (call.team.exchange == Exchange::cluster) {
      store_async(reinterpret_cast<Quad*>(map_shared(message + at, to)), quad, map_shared(barrier_at, to));  // path: cluster
    } else if (may_be_data && call.team.exchange == Exchange::data) {
      for (uint32_t& word : quad.word) word = word == kNothingYet ? 0x7fffffffu : word;  // a NaN of either sign stays one
      store_relaxed(reinterpret_cast<Quad*>(message + at), quad);
    } else {
      publish(reinterpret_cast<Quad*>(message + at), quad);  // path: grid
    }
  }

  // With all threads, after what they sent of a message.
  RNNK_DEVICE void sent(int row_tile, int64_t message) const {
    if (call.team.exchange == Exchange::cluster || call.team.exchange == Exchange::data) return;
    sync_block();
    if (thread() != 0) return;
    if (call.team.exchange == Exchange::sync) add_release(flag(row_tile, 0), 1);
    else store_release(flag(row_tile, own.rank), static_cast<uint32_t>(message + 1));
  }
};

// The sums of an element's gates over the parts of its terms, `split` warps', all loads before the additions wait for them.
template <int split, int G, class T>
RNNK_DEVICE void add_parts(const T* part, T (&total)[G]) {
  RNNK_UNROLL
  for (int g = 0; g < G; ++g) total[g] = part[g * (kRows * kSumsLd)];  // path: sums
  RNNK_UNROLL
  for (int i = 1; i < split; ++i) {
    RNNK_UNROLL
    for (int g = 0; g < G; ++g) total[g] += part[(i * G + g) * (kRows * kSumsLd)];  // path: sums
  }
}
template <int G, class T>
RNNK_DEVICE void add_parts(const T* part, int split, T (&total)[G]) {
  static_assert(kTeamWarps == 8 && kMostTiles == 8, "split is 8, 4, 2 or 1");
  switch (split) {
    case 8: return add_parts<8>(part, total);
    case 4: return add_parts<4>(part, total);
    case 2: return add_parts<2>(part, total);
    default: return add_parts<1>(part, total);
  }
}

// A NaN in the place of every sum, once a wait has expired: outputs from there on are NaN, the peers' too.
template <class T>
RNNK_DEVICE T or_nan(T sum, bool broken) {
  return broken ? static_cast<T>(bits_to_float(0x7fc00000u)) : sum;
}

}  // namespace gpu
}  // namespace rnnk
