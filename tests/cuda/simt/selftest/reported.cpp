// Kernels with a fault planted in them that must end the launch, with a sentence that says where and what.
#include "cases.h"

namespace selftest {
namespace {

RNNK_GLOBAL void writes(Given p) {
  if (gpu::thread() == 7) gpu::shared()[p.number] = 1;
}
RNNK_GLOBAL void reads(Given p) {
  if (gpu::thread() == 7) p.out[0] = static_cast<uint32_t>(gpu::shared()[p.number]);
}
void write_past_the_end() {
  expect_in(said(writes, kOneWarp, 512), {"block (0, 0), thread 7", "shared memory out of bounds", "offset 512 of 512"});
}
void read_past_the_end() {
  expect_in(said(reads, kOneWarp, 516), {"block (0, 0), thread 7", "shared memory out of bounds", "offset 516 of 512"});
}
void access_before_the_start() {
  expect_in(said(reads, kOneWarp, -4096), {"thread 7", "shared memory out of bounds", "offset -4096 of 512"});
  expect_in(said(writes, kOneWarp, -1), {"shared memory out of bounds: block (0, 0) has written at offset -1 of 512"});
}
void write_before_a_multiple_of_128() {  // where no page ends: what lies there is looked at when the block has ended
  expect_in(said(writes, {1, 1, 32, 500, nullptr}, 501),
            {"shared memory out of bounds", "has written at offset 501 of 500"});
}
void not_launched_with_memory() { expect_in(said(writes, {1, 1, 32, 0, nullptr}, 0), {"out of bounds", "offset 0 of 0"}); }
void wild_address() { expect_in(said(writes, kOneWarp, int64_t{1} << 45), {"thread 7", "where there is no memory"}); }

RNNK_GLOBAL void loads_row(Given p) {
  uint32_t r[4];
  gpu::ldmatrix_x4(r, gpu::shared() + p.number);
}
void matrix_out_of_bounds() {
  expect_in(said(loads_row, kOneWarp, 504), {"ldmatrix_x4: shared memory out of bounds: 16 bytes at offset 504 of 512"});
  expect_in(said(loads_row, kOneWarp, 8), {"ldmatrix_x4: expected an address that is a multiple of 16, got offset 8"});
}

RNNK_GLOBAL void endless(Given p) {
  volatile char deep[1024];
  deep[0] = static_cast<char>(p.number);
  if (p.number >= 0) endless(Given{p.data, p.flags, p.out, p.number + 1});
  deep[1] = deep[0];
}
void stack_overflow() { expect_in(said(endless, kOneWarp), {"its stack of", "overflows"}); }

RNNK_GLOBAL void skips(Given) {
  if (gpu::thread() != 7) gpu::sync_block();
}
void skipped_barrier() {
  expect_in(said(skips, kOneBlock), {"deadlock", "127 at sync_block (first: block (0, 0), thread 0)", "1 have ended"});
}

template <bool pauses>
RNNK_GLOBAL void waits_for_flag(Given p) {
  if (gpu::thread() == 5) {
    while (gpu::load_acquire(p.flags) == 0) {
      if (pauses) gpu::poll_pause();
    }
  }
  gpu::sync_block();
}
void flag_never_written() {
  const std::vector<const char*> parts{"deadlock", "127 at sync_block", "1 at poll_pause (first: block (0, 0), thread 5)"};
  expect_in(said(waits_for_flag<true>, kOneBlock), parts);
  expect_in(said(waits_for_flag<false>, kOneBlock), parts);  // a loop without poll_pause
}
RNNK_GLOBAL void expects_more(Given) {
  auto* barrier = shared_as<uint64_t>();
  if (gpu::thread() == 0) gpu::mbarrier_init(barrier, 1);
  gpu::sync_block();
  if (gpu::thread() == 0) {
    gpu::mbarrier_expect(barrier, 8);
    gpu::store_async(shared_as<uint32_t>(16), 1u, barrier);
  }
  while (!gpu::mbarrier_try_wait(barrier, 0)) {
  }
}
void bytes_that_never_come() { expect_in(said(expects_more, kOneWarp), {"deadlock", "32 at mbarrier_try_wait"}); }

RNNK_GLOBAL void gives_up(Given p) {
  const uint64_t start = gpu::global_timer();
  while (gpu::load_acquire(p.flags) == 0) {
    gpu::poll_pause();
    if (gpu::global_timer() - start > 10'000'000'000u) break;  // ten seconds
  }
  p.out[gpu::thread()] = static_cast<uint32_t>(gpu::thread() + 1);
}
void bounded_wait() { expect(counts(gives_up, kOneBlock), "a kernel that bounds its waits ends by itself"); }

RNNK_GLOBAL void parts_ways(Given) {
  if (gpu::lane() == 3) gpu::sync_warp();
  else gpu::shuffle_xor(1.f, 1);
}
void different_operations() {
  expect_in(said(parts_ways, kOneWarp), {"lanes meet at different operations", "sync_warp", "shuffle_xor of floats"});
}
RNNK_GLOBAL void lane_stays_away(Given) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (gpu::lane() == 3) gpu::sync_block();
  else gpu::mma_bf16(d, a, b);
}
void missing_lane() {
  expect_in(said(lane_stays_away, kOneWarp),
            {"deadlock", "1 at sync_block (first: block (0, 0), thread 3)", "31 at mma_bf16"});
}
RNNK_GLOBAL void half_a_warp(Given) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  gpu::mma_f16(d, a, b);
}
void too_few_lanes() { expect_in(said(half_a_warp, {1, 1, 16, 0, nullptr}), {"mma_f16 needs 32 lanes", "0x0000ffff"}); }

RNNK_GLOBAL void reaches_ended(Given) {  // no cluster barrier at the end
  if (gpu::cluster_rank() == 0) return;
  for (int i = 0; i < 1000; ++i) gpu::poll_pause();
  *gpu::map_shared(shared_as<int>(), 0) = 1;
}
RNNK_GLOBAL void pushes_and_ends(Given) {
  auto* barrier = shared_as<uint64_t>();
  if (gpu::thread() == 0) gpu::mbarrier_init(barrier, 1);
  gpu::sync_block();
  for (int i = 0; i < 3; ++i) gpu::store_async(shared_as<uint32_t>(64) + 32 * i + gpu::thread(), 1u, barrier);
}
void block_that_has_ended() {
  expect_in(said(reaches_ended, kPair), {"block (1, 0)", "of block (0, 0), which has ended"});
  expect_in(said(pushes_and_ends, kOneWarp), {"block (0, 0) has ended while a store_async to it is on its way"});
}
RNNK_GLOBAL void no_barrier(Given) { gpu::mbarrier_try_wait(shared_as<uint64_t>(), 0); }
RNNK_GLOBAL void expects_twice(Given) {
  auto* barrier = shared_as<uint64_t>();
  gpu::mbarrier_init(barrier, 1);
  gpu::mbarrier_expect(barrier, 8);
  gpu::mbarrier_expect(barrier, 8);
}
void too_many_arrivals() {
  expect_in(said(expects_twice, {1, 1, 1, 64, nullptr}), {"all 1 arrivals of this phase have been"});
}
void barrier_not_initialised() { expect_in(said(no_barrier, kOneWarp), {"an mbarrier that is not initialised"}); }

// Threads 7 and 40 touch the same byte; both places are named.
RNNK_GLOBAL void writes_and_reads(Given p) {
  if (gpu::thread() == 7) gpu::shared()[16] = 1;
  if (gpu::thread() == 40) p.out[40] = static_cast<uint32_t>(gpu::shared()[16]);
}
void race_in_shared_memory() {
  expect_in(said(writes_and_reads, kOneBlock),
            {"block (0, 0), thread ", "a data race at offset 16 of the shared memory of block (0, 0)", "a read", "a write",
             ", which nothing orders", "before it: reported.cpp:"});
}
RNNK_GLOBAL void all_write(Given p) { p.data[gpu::thread()] = 1; }
void race_of_blocks_in_turn() {  // which the executor runs one after the other
  expect_in(said(all_write, {2, 1, 32, 0, nullptr}),
            {"a data race at global memory", "a write and, before it, a write of what has ended"});
}
RNNK_GLOBAL void plain_and_relaxed(Given p) {
  if (gpu::block_x() == 0) p.data[gpu::thread()] = 1;
  else gpu::load_relaxed(p.data + gpu::thread());
}
void plain_against_relaxed() {
  expect_in(said(plain_and_relaxed, kAtOnce), {"a data race", "a write", "a relaxed or volatile read"});
}
RNNK_GLOBAL void halves_of_a_word(Given p) { reinterpret_cast<uint16_t*>(p.data)[gpu::thread()] = 1; }
void neighbours_are_no_race() { counts(halves_of_a_word, kOneBlock); }

// Quads and pairs are words of 4 bytes; what is volatile is one element.
template <int of>
RNNK_GLOBAL void stores_and_loads(Given p) {
  auto* quads = reinterpret_cast<gpu::Quad*>(p.data);
  auto* pairs = reinterpret_cast<uint64_t*>(p.data);
  const bool first = gpu::block_x() == 0;
  if (of == 0 && first) gpu::store_relaxed(quads, gpu::Quad{});
  if (of == 0 && !first) gpu::load_relaxed(pairs);
  if (of == 1 && first) *static_cast<volatile uint64_t*>(pairs) = 1;
  if (of == 1 && !first) gpu::load_relaxed(p.data + 1);
  if (of == 2 && first) gpu::publish(quads, gpu::Quad{});
  if (of == 2 && !first) p.out[0] = static_cast<uint32_t>(*pairs);
}
void accesses_of_different_size() {
  const gpu::Launch how{2, 1, 1, 0, nullptr, 1, true};
  counts(stores_and_loads<0>, how);
  expect_in(said(stores_and_loads<1>, how),
            {"accesses of different size at global memory", "overlap in part", "reported.cpp:"});
  expect_in(said(stores_and_loads<2>, how), {"a data race at global memory"});
}

RNNK_GLOBAL void loads_quad(Given p) {
  const auto* quad = reinterpret_cast<const gpu::Quad*>(reinterpret_cast<const char*>(p.data) + p.number);
  p.out[0] = quad->word[0] + quad->word[3];
}
RNNK_GLOBAL void loads_pair(Given p) {
  p.out[0] = static_cast<uint32_t>(*reinterpret_cast<const uint64_t*>(reinterpret_cast<const char*>(p.data) + p.number));
}
void misaligned() {
  counts(loads_quad, {1, 1, 1, 0, nullptr}, 16);
  expect_in(said(loads_quad, kOneWarp, 8), {"an access at an address that is not a multiple of 16", "reported.cpp:"});
  expect_in(said(loads_pair, kOneWarp, 4), {"an access at an address that is not a multiple of 8", "reported.cpp:"});
}

RNNK_GLOBAL void overwrites_source(Given p) {
  gpu::copy_async(gpu::shared() + 16 * gpu::thread(), p.data + 4 * gpu::thread());
  gpu::copy_commit();
  p.data[(4 * gpu::thread() + 4) % 128] = 1;
  gpu::copy_wait<0>();
}
void source_of_a_copy_overwritten() { expect_in(said(overwrites_source, kOneWarp), {"a data race at global memory"}); }

RNNK_GLOBAL void initialises_late(Given) {
  auto* barrier = shared_as<uint64_t>();
  if (gpu::thread() == 0) {
    gpu::mbarrier_init(barrier, 1);
    gpu::mbarrier_expect(barrier, 8);
  }
  gpu::sync_block();
  const int peer = 1 - gpu::cluster_rank();
  for (int i = 0; i < 100; ++i) gpu::poll_pause();
  if (gpu::thread() < 2)
    gpu::store_async(gpu::map_shared(shared_as<uint32_t>(64) + gpu::thread(), peer), 1u, gpu::map_shared(barrier, peer));
  while (!gpu::mbarrier_try_wait(barrier, 0)) {
  }
  gpu::cluster_arrive_release();
  gpu::cluster_wait_acquire();
}
void mbarrier_not_yet_seen() { expect_in(said(initialises_late, kPair), {"a data race at offset 0 of the shared memory"}); }

// What the host does on a stream counts, too.
void race_with_a_fill() {
  std::vector<uint32_t> data(128);
  void* const* const sides = gpu::fork_streams(0, nullptr, 1);
  gpu::clear(data.data(), 4 * data.size(), nullptr);
  gpu::launch(all_write, {1, 1, 32, 0, sides[0]}, Given{data.data(), nullptr, nullptr, 0}, "planted");
  expect_in(failure([] { gpu::join_streams(0, nullptr, 1); }), {"a data race at global memory", "which nothing orders"});
}

void refused() {
  expect_in(said(skips, {1, 1, 2000, 0, nullptr}), {"expected 1 to 1024 threads, got 2000"});
  expect_in(said(skips, {1, 1, 32, 232449, nullptr}), {"232448 bytes of shared memory, got 232449"});
  expect_in(said(skips, {3, 1, 32, 0, nullptr, 2}), {"blocks in x that are whole clusters, got 3"});
  expect_in(said(skips, {133, 1, 1024, 200000, nullptr, 1, true}), {"more blocks than run at once, got 133"});
}

}  // namespace

const std::vector<Case>& reported() {
  static const std::vector<Case> cases{CASE(write_past_the_end),
                                       CASE(read_past_the_end),
                                       CASE(access_before_the_start),
                                       CASE(write_before_a_multiple_of_128),
                                       CASE(not_launched_with_memory),
                                       CASE(wild_address),
                                       CASE(matrix_out_of_bounds),
                                       CASE(stack_overflow),
                                       CASE(skipped_barrier),
                                       CASE(flag_never_written),
                                       CASE(bytes_that_never_come),
                                       CASE(bounded_wait),
                                       CASE(different_operations),
                                       CASE(missing_lane),
                                       CASE(too_few_lanes),
                                       CASE(block_that_has_ended),
                                       CASE(too_many_arrivals),
                                       CASE(barrier_not_initialised),
                                       CASE(race_in_shared_memory),
                                       CASE(race_of_blocks_in_turn),
                                       CASE(plain_against_relaxed),
                                       CASE(neighbours_are_no_race),
                                       CASE(accesses_of_different_size),
                                       CASE(misaligned),
                                       CASE(source_of_a_copy_overwritten),
                                       CASE(mbarrier_not_yet_seen),
                                       CASE(race_with_a_fill),
                                       CASE(refused)};
  return cases;
}

}  // namespace selftest
