// Delayed stores, and stores into a peer's shared memory that count at an mbarrier.
#include "simt/delayed.h"

#include <cstring>
#include <unordered_map>
#include <vector>

#include "simt/executor.h"
#include "simt/history.h"
#include "simt/races.h"

namespace rnnk {
namespace simt {

namespace {

enum Reach : uint8_t { of_fiber, of_warp, of_block };

// Bytes of one aligned word that are not in memory yet.
struct Word {
  uintptr_t at;
  unsigned char bytes[4];
  uint8_t mask;
  Reach reach;
  Warp* warp;      // whose lanes
  uint32_t lanes;  // have stored here
  Access store;    // the last of them
};

struct Push {
  char* to;
  size_t size;
  char value[16];
  uint64_t* barrier;
  const Block* target;
};

std::vector<Word> words;
std::unordered_map<uintptr_t, size_t> where;  // in words
std::vector<Push> pushes;
uint64_t laziness;  // a mask: words arrive when the drawn bits under it are zero
bool used;          // by this launch

void write_word(uintptr_t key) {
  const auto found = where.find(key);
  if (found == where.end()) return;
  const size_t index = found->second;
  const Word word = words[index];
  where.erase(found);
  if (index + 1 < words.size()) {
    words[index] = words.back();
    where[words[index].at] = index;
  }
  words.pop_back();
  replace_word(word.at, word.store);
  auto* to = reinterpret_cast<unsigned char*>(word.at);
  for (int i = 0; i < 4; ++i) {
    if (word.mask >> i & 1) to[i] = word.bytes[i];
  }
  progress();
}

void store_word(Fiber& own, uintptr_t to, const unsigned char* bytes, size_t size) {
  const uintptr_t key = to & ~uintptr_t{3};
  auto found = where.find(key);
  if (found != where.end()) {
    const Word& old = words[found->second];
    if (old.reach != of_fiber || old.warp != own.warp) {
      write_word(key);
      found = where.end();
    }
  }
  if (found == where.end()) {
    found = where.emplace(key, words.size()).first;
    words.push_back({key, {}, 0, of_fiber, own.warp, 0, {}});
  }
  Word& word = words[found->second];
  word.lanes |= own.bit();
  word.store = {now, own.block->id, static_cast<uint32_t>(own.thread)};
  for (size_t i = 0; i < size; ++i) {
    word.bytes[(to & 3) + i] = bytes[i];
    word.mask |= static_cast<uint8_t>(1u << ((to & 3) + i));
  }
  own.stores.push_back(key);
}

void write_all(std::vector<uintptr_t>& keys) {
  for (uintptr_t key : keys) write_word(key);
  keys.clear();
}

void hand(std::vector<uintptr_t>& from, std::vector<uintptr_t>& to, Reach reach) {
  for (uintptr_t key : from) {
    const auto found = where.find(key);
    if (found == where.end()) continue;
    words[found->second].reach = reach;
    to.push_back(key);
  }
  from.clear();
}

bool seen_by(const Word& word, const Fiber& own) {
  if (word.reach == of_block) return word.warp->block == own.block;
  return word.warp == own.warp && (word.reach == of_warp || (word.lanes & own.bit()));
}

// phase: 1 bit; arrivals of a phase, arrivals missing: 12 bits each; bytes missing: 22 bits; and a pattern.
struct Barrier {
  uint64_t phase : 1, count : 12, missing : 12;
  int64_t bytes : 22;
  uint64_t pattern : 17;
};
static_assert(sizeof(Barrier) == 8);
constexpr uint64_t kPattern = 0x1a5c3;
constexpr int64_t kMostBytes = (1 << 20) - 1;  // as the hardware counts

Barrier load_barrier(const uint64_t* from) {
  Barrier barrier;
  std::memcpy(&barrier, from, sizeof barrier);
  if (barrier.pattern != kPattern) report("an mbarrier that is not initialised, at %p", static_cast<const void*>(from));
  return barrier;
}
void store_barrier(uint64_t* to, Barrier barrier) {
  if (barrier.missing == 0 && barrier.bytes == 0) {
    barrier.phase ^= 1;
    barrier.missing = barrier.count;
    end_phase_view(to);
  }
  std::memcpy(to, &barrier, sizeof barrier);
  progress();
}

const Block* block_of(const Cluster& cluster, const void* address, size_t size) {
  const auto* at = static_cast<const char*>(address);
  for (int i = 0; i < cluster.size; ++i) {
    const Block& block = cluster.blocks[i];
    if (at >= block.shared && at + size <= block.shared + block.grid->shared) return &block;
  }
  return nullptr;
}

void deliver(size_t index) {
  const Push push = pushes[index];
  pushes[index] = pushes.back();
  pushes.pop_back();
  std::memcpy(push.to, push.value, push.size);
  lands(push.to, push.size, {now, push.target->id, counter_of(push.barrier, *push.target)});
  Barrier barrier = load_barrier(push.barrier);
  barrier.bytes -= static_cast<int64_t>(push.size);
  if (barrier.bytes < -kMostBytes) {
    return report("an mbarrier has had %lld bytes more than were expected", static_cast<long long>(-barrier.bytes));
  }
  store_barrier(push.barrier, barrier);
}

}  // namespace

// The places in the program that the functions below tell races.h are those of a kernel's call, since what is between is inline.
constexpr How kStrongRead{Does::read, true, 4}, kStrongWrite{Does::write, true, 4};
// What is done with an mbarrier comes after mbarrier_init(), which is a write; among themselves these are no race.
constexpr How kOfBarrier{Does::read, true, 8};

void store_delayed(void* to, const void* from, size_t size, bool strong) {
  used = true;
  const auto at = reinterpret_cast<uintptr_t>(to);
  if (at % size != 0) report("a store of %zu bytes at an address that is not a multiple of it: %p", size, to);
  accesses(to, size, strong ? kStrongWrite : kWrites, __builtin_return_address(0));
  const auto* bytes = static_cast<const unsigned char*>(from);
  for (size_t i = 0; i < size; i += 4) store_word(*current, at + i, bytes + i, size < 4 ? size : 4);
}

// One word, or a part of one.
static void load_word(unsigned char* to, uintptr_t from, size_t size, bool newest) {
  const uintptr_t key = from & ~uintptr_t{3};
  const auto found = where.find(key);
  unsigned char old[4];
  if (found != where.end() && seen_by(words[found->second], *current)) {
    const Word& word = words[found->second];
    for (size_t i = 0; i < size; ++i) {
      if (word.mask >> ((from & 3) + i) & 1) to[i] = word.bytes[(from & 3) + i];
    }
  } else if (!newest && read_old_word(key, old)) {
    std::memcpy(to, old + (from & 3), size);
  }
}

static void load(void* to, const void* from, size_t size, bool newest, const void* place) {
  const auto at = reinterpret_cast<uintptr_t>(from);
  if (at % size != 0) report("a load of %zu bytes at an address that is not a multiple of it: %p", size, from);
  accesses(from, size, kStrongRead, place);
  std::memcpy(to, from, size);
  if (!used) return;
  auto* bytes = static_cast<unsigned char*>(to);
  for (size_t i = 0; i < size; i += 4) load_word(bytes + i, at + i, size < 4 ? size : 4, newest);
}

void load_current(void* to, const void* from, size_t size) { load(to, from, size, false, __builtin_return_address(0)); }

uint32_t load_acquired(const uint32_t* from) {
  uint32_t value;
  load(&value, from, sizeof value, true, __builtin_return_address(0));
  acquire_view(from, *current);
  return value;
}

void release(Fiber& own) {
  if (!used) return;
  write_all(own.stores);
  write_all(own.warp->stores);
  write_all(own.block->stores);
}

void store_released(uint32_t* to, uint32_t value, bool adds) {
  accesses(to, sizeof value, kStrongWrite, __builtin_return_address(0));
  release(*current);
  release_view(to, *current, adds);
  *to = adds ? *to + value : value;
  progress();
}

void maybe_polls() {
  if (++current->loads % 64 == 0) yield(Op::poll);
}

void* map_shared(void* own, int rank) {
  const Block& block = *current->block;
  const auto offset = static_cast<char*>(own) - block.shared;
  if (offset < 0 || offset >= block.grid->shared)
    report("map_shared: expected an address in the block's shared memory, got %p", own);
  if (rank < 0 || rank >= block.cluster->size)
    report("map_shared: expected a rank below %d, got %d", block.cluster->size, rank);
  return block.cluster->blocks[rank].shared + offset;
}

void hand_to_warp(Warp& warp) {
  join_views(warp, warp.arrived);
  if (!used) return;
  for (int lane = 0; lane < 32; ++lane) {
    if (warp.arrived >> lane & 1) hand(warp.lanes[lane].stores, warp.stores, of_warp);
  }
}

void hand_to_block(Block& block) {
  if (!used) return;
  for (int i = 0; i < block.threads; ++i) hand(block.fibers[i].stores, block.stores, of_block);
  for (int i = 0; i < (block.threads + 31) / 32; ++i) hand(block.warps[i].stores, block.stores, of_block);
}

void store_later(void* to, const void* from, size_t size, uint64_t* barrier) {
  const Cluster& cluster = *current->block->cluster;
  const Block* target = block_of(cluster, to, size);
  if (!target || block_of(cluster, barrier, 8) != target) {
    report("store_async: expected a target and an mbarrier in the shared memory of one block of the cluster");
  }
  if (reinterpret_cast<uintptr_t>(to) % size != 0) report("store_async: %zu bytes at %p, not a multiple of it", size, to);
  if (target->live == 0)
    report("store_async: the target's block (%lld, %lld) has ended", static_cast<long long>(target->x),
           static_cast<long long>(target->y));
  const void* const place = __builtin_return_address(0);
  accesses(barrier, sizeof *barrier, kOfBarrier, place);
  departs(to, size, place);
  depend_view(barrier, *current);
  Push push{static_cast<char*>(to), size, {}, barrier, target};
  std::memcpy(push.value, from, size);
  pushes.push_back(push);
  progress();
}

void check_arrivals(const Block& block) {
  for (const Push& push : pushes) {
    if (push.target != &block) continue;
    return report("block (%lld, %lld) has ended while a store_async to it is on its way", static_cast<long long>(block.x),
                  static_cast<long long>(block.y));
  }
}

void barrier_init(uint64_t* barrier, int count) {
  if (count < 1 || count > 4095) report("mbarrier_init: expected 1 to 4095 arrivals, got %d", count);
  accesses(barrier, sizeof *barrier, kWrites, __builtin_return_address(0));
  counter_of(barrier, *current->block);
  const auto arrivals = static_cast<uint64_t>(count);
  store_barrier(barrier, {0, arrivals, arrivals, 0, kPattern});
}

void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  accesses(barrier, sizeof *barrier, kOfBarrier, __builtin_return_address(0));
  Barrier state = load_barrier(barrier);
  if (state.missing == 0) report("mbarrier_expect: all %d arrivals of this phase have been", static_cast<int>(state.count));
  if (bytes > kMostBytes) report("mbarrier_expect: expected less than 1048576 bytes, got %u", bytes);
  state.bytes += bytes;
  --state.missing;
  arrive_view(barrier, *current);
  store_barrier(barrier, state);
}

void barrier_expect_more(uint64_t* barrier, uint32_t bytes) {
  accesses(barrier, sizeof *barrier, kOfBarrier, __builtin_return_address(0));
  Barrier state = load_barrier(barrier);
  state.bytes += bytes;
  store_barrier(barrier, state);
}

bool barrier_passed(uint64_t* barrier, uint32_t parity) {
  accesses(barrier, sizeof *barrier, kOfBarrier, __builtin_return_address(0));
  if (load_barrier(barrier).phase == (parity & 1)) return false;
  acquire_phase_view(barrier, *current);
  return true;
}

void begin_delays() {
  static const uint64_t masks[] = {0, 3, 15, 127};
  laziness = masks[chance.below(4)];
  used = false;
}

void let_some_arrive() {
  if (words.empty() && pushes.empty()) return;
  if (chance.next() & laziness) return;
  for (uint32_t i = chance.below(static_cast<uint32_t>(words.size() / 4 + 2)); i > 0 && !words.empty(); --i) {
    write_word(words[chance.below(static_cast<uint32_t>(words.size()))].at);
  }
  for (uint32_t i = chance.below(static_cast<uint32_t>(pushes.size() / 4 + 2)); i > 0 && !pushes.empty(); --i) {
    deliver(chance.below(static_cast<uint32_t>(pushes.size())));
  }
}

void finish_delays() {
  while (!words.empty()) write_word(words.back().at);
}

void drop_delays() {
  words.clear();
  where.clear();
  pushes.clear();
}

}  // namespace simt
}  // namespace rnnk
