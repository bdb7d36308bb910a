// The warp's operations of device.h: what the last lane to come does for all.
#include "simt/device.h"

#include "simt/delayed.h"
#include "simt/executor.h"
#include "simt/races.h"

namespace rnnk {
namespace gpu {

namespace {

using simt::Fiber;
using simt::meet;
using simt::Op;
using simt::report;
using simt::Warp;

template <class T>
struct Exchanged {
  T value, result;
  int mask;
};

template <class T>
void exchange(Warp& warp) {
  for (uint32_t lane = 0; lane < 32; ++lane) {
    if (!(warp.arrived >> lane & 1)) continue;
    auto* own = static_cast<Exchanged<T>*>(warp.lanes[lane].deposit);
    const uint32_t from = lane ^ static_cast<uint32_t>(own->mask);
    if (from < 32 && (warp.arrived >> from & 1)) {
      own->result = static_cast<Exchanged<T>*>(warp.lanes[from].deposit)->value;
    } else {
      std::memset(&own->result, 0xff, sizeof own->result);  // a lane that is not there: undefined
    }
  }
}

struct Rows {
  uint32_t* result;
  const char* row;
};

void load_matrices(Warp& warp) {
  const auto of = [&](uint32_t lane) { return static_cast<Rows*>(warp.lanes[lane].deposit); };
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t i = 0; i < 4; ++i) {
      std::memcpy(of(lane)->result + i, of(8 * i + lane / 4)->row + 4 * (lane % 4), 4);
    }
  }
}

struct Fragments {
  float* d;
  const uint32_t *a, *b;
};

struct Bf16 {
  static float low(uint32_t pair) { return bits_to_float(pair << 16); }
  static float high(uint32_t pair) { return bits_to_float(pair & 0xffff0000u); }
};
struct F16 {
  static float low(uint32_t pair) { return half_to_float(static_cast<uint16_t>(pair)); }
  static float high(uint32_t pair) { return half_to_float(static_cast<uint16_t>(pair >> 16)); }
};

template <int K>
struct Matrices {
  using Row = float __attribute__((vector_size(32)));
  float a[16][K];
  Row b[K];

  void accumulate(Warp& warp) const {
    Row d[16];
    const auto own = [&](int lane) { return static_cast<Fragments*>(warp.lanes[lane].deposit)->d; };
    const auto row = [](int lane, int i) { return lane / 4 + i / 2 * 8; };
    const auto column = [](int lane, int i) { return 2 * (lane % 4) + i % 2; };
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) d[row(lane, i)][column(lane, i)] = own(lane)[i];
    }
    for (int m = 0; m < 16; ++m) {  // the products are exact: a fused multiplication would give the same
      for (int k = 0; k < K; ++k) d[m] += a[m][k] * b[k];
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) own(lane)[i] = d[row(lane, i)][column(lane, i)];
    }
  }
};

// A: a[0] row g, columns 2 t and 2 t + 1; a[1] row g + 8; a[2], a[3] the same with columns + 8. B: b[0] rows 2 t and 2 t + 1 of
// column g; b[1] rows + 8.
template <class Type>
void multiply_16(Warp& warp) {
  Matrices<16> whole;
  for (int lane = 0; lane < 32; ++lane) {
    const auto* own = static_cast<Fragments*>(warp.lanes[lane].deposit);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      float* to = &whole.a[g + i % 2 * 8][2 * t + i / 2 * 8];
      to[0] = Type::low(own->a[i]);
      to[1] = Type::high(own->a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      whole.b[2 * t + 8 * i][g] = Type::low(own->b[i]);
      whole.b[2 * t + 8 * i + 1][g] = Type::high(own->b[i]);
    }
  }
  whole.accumulate(warp);
}

// A: a[0] row g, column t; a[1] row g + 8; a[2], a[3] the same with column t + 4. B: b[0] row t, column g; b[1] row t + 4. The
// hardware reads 19 bits of an operand.
void multiply_8(Warp& warp) {
  Matrices<8> whole;
  const auto value = [](uint32_t u) { return bits_to_float(u & 0xffffe000u); };
  for (int lane = 0; lane < 32; ++lane) {
    const auto* own = static_cast<Fragments*>(warp.lanes[lane].deposit);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) whole.a[g + i % 2 * 8][t + i / 2 * 4] = value(own->a[i]);
    for (int i = 0; i < 2; ++i) whole.b[t + 4 * i][g] = value(own->b[i]);
  }
  whole.accumulate(warp);
}

int64_t shared_size() { return simt::current->block->grid->shared; }
bool in_shared(const void* address, int64_t size) {
  const auto* at = static_cast<const char*>(address);
  return at >= shared() && at + size <= shared() + shared_size();
}
bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

void check_row(const char* what, const void* at) {
  const auto offset = static_cast<long long>(static_cast<const char*>(at) - shared());
  if (!in_shared(at, 16)) {
    report("%s: shared memory out of bounds: 16 bytes at offset %lld of %lld", what, offset,
           static_cast<long long>(shared_size()));
  }
  if (!aligned(at)) report("%s: expected an address that is a multiple of 16, got offset %lld", what, offset);
}

}  // namespace

int thread() { return simt::current->thread; }
int threads() { return simt::current->block->threads; }
int64_t block_x() { return simt::current->block->x; }
int64_t block_y() { return simt::current->block->y; }
int64_t blocks_x() { return simt::current->block->grid->x; }
int64_t blocks_y() { return simt::current->block->grid->y; }
char* shared() { return simt::current->block->shared; }
int cluster_rank() { return simt::current->block->rank; }
int cluster_size() { return simt::current->block->cluster->size; }

void sync_warp() { meet(Op::sync_warp, nullptr, simt::hand_to_warp, false); }

float shuffle_xor(float v, int mask) {
  Exchanged<float> own{v, 0, mask};
  meet(Op::shuffle_float, &own, exchange<float>, false);
  return own.result;
}
double shuffle_xor(double v, int mask) {
  Exchanged<double> own{v, 0, mask};
  meet(Op::shuffle_double, &own, exchange<double>, false);
  return own.result;
}

void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  check_row("ldmatrix_x4", row);
  simt::accesses(row, 16, simt::kReads, __builtin_return_address(0));
  Rows own{r, static_cast<const char*>(row)};
  meet(Op::ldmatrix, &own, load_matrices, true);
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments own{d, a, b};
  meet(Op::mma_bf16, &own, multiply_16<Bf16>, true);
}
void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments own{d, a, b};
  meet(Op::mma_f16, &own, multiply_16<F16>, true);
}
void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments own{d, a, b};
  meet(Op::mma_tf32, &own, multiply_8, true);
}

void copy_async(void* to_shared, const void* from_global) {
  check_row("copy_async", to_shared);
  if (!aligned(from_global)) report("copy_async: expected a source that is a multiple of 16, got %p", from_global);
  Fiber& own = *simt::current;
  const void* const place = __builtin_return_address(0);
  simt::accesses(from_global, 16, simt::kReads, place);
  simt::departs(to_shared, 16, place);
  const bool done = simt::chance.next() & 1;
  if (done) std::memcpy(to_shared, from_global, 16);
  own.copies.push_back({to_shared, from_global, own.groups, done, place});
}
void copy_commit() { ++simt::current->groups; }

void copy_arrive(int pending) {
  Fiber& own = *simt::current;
  size_t kept = 0;
  for (const simt::Copy& copy : own.copies) {
    if (copy.group < own.groups - pending) {
      simt::accesses(copy.from, 16, simt::kReads, copy.place);
      simt::lands(copy.to, 16, {simt::now, own.block->id, static_cast<uint32_t>(own.thread)});
      if (!copy.done) std::memcpy(copy.to, copy.from, 16);
    } else {
      own.copies[kept++] = copy;
    }
  }
  own.copies.resize(kept);
}

}  // namespace gpu
}  // namespace rnnk
