// A kernel of int8 weights is a driver (its host: one of the kernels of floats) with the instructions that multiply bytes.
#pragma once
#include "core/kernel.h"
#include "cpu/int8.h"

namespace rnnk {

// The driver that a file of isa/ compiles for the width of its vectors (instantiate.h).
struct Int8Host {
  double (*estimate)(const Problem&, const Int8Unit&, int64_t seq_len, int64_t batch, int threads);
  int64_t (*bytes)(const Problem&, Space, int64_t seq_len, int64_t batch);
  void (*pack)(const Problem&, const Parameters&, Halves, void* packed);
  void (*forward)(const Problem&, const LayerCall&, const Int8Unit&);
};

namespace {

template <const Int8Host& host, const Int8Unit& unit>
constexpr Kernel int8_kernel(const char* name, uint32_t features) {
  return {.name = name,
          .device = RNNK_CPU,
          .features = features,
          .accepts = [](const Problem&, char*, int64_t) { return true; },
          .estimate = [](const Problem& p, int64_t t, int64_t b, bool backward,
                         int threads) { return backward ? 0 : host.estimate(p, unit, t, b, threads); },
          .bytes = [](const Problem& p, Space space, int64_t t, int64_t b) { return host.bytes(p, space, t, b); },
          .gradient_steps = [](int64_t, int64_t) { return int64_t{1}; },
          .share = nullptr,
          .pack = [](const Problem& p, const Parameters& w, Halves halves, void* to) { host.pack(p, w, halves, to); },
          .forward = [](const Problem& p, const LayerCall& a) { host.forward(p, a, unit); },
          .backward = nullptr,  // network/check.cpp refuses it
          .int8 = true};
}

}  // namespace
}  // namespace rnnk
