// A kernel for weights in another form is a driver (its host: one of the kernels of floats) with the instructions that read them.
#pragma once
#include "core/kernel.h"
#include "cpu/unit.h"

namespace rnnk {

// The driver that a file of isa/ compiles for the width of its vectors (instantiate.h).
struct UnitHost {
  Schedule (*schedule)(const Problem&, const WeightUnit&, int64_t seq_len, int64_t batch, int threads);
  int64_t (*bytes)(const Problem&, Space, int64_t seq_len, int64_t batch);
  void (*pack)(const Problem&, const Parameters&, Halves, void* packed);
  void (*forward)(const Problem&, const LayerCall&, const WeightUnit&);
};

namespace {

template <const UnitHost& host, const WeightUnit& unit>
constexpr Kernel unit_kernel(const char* name, uint32_t features, WeightForm form) {
  return {.name = name,
          .device = RNNK_CPU,
          .features = features,
          .accepts = [](const Problem&, char*, int64_t) { return true; },
          .estimate = [](const Problem& p, int64_t t, int64_t b, bool backward,
                         int threads) { return backward ? 0 : host.schedule(p, unit, t, b, threads).us; },
          .bytes = [](const Problem& p, Space space, int64_t t, int64_t b) { return host.bytes(p, space, t, b); },
          .gradient_steps = [](int64_t, int64_t) { return int64_t{1}; },
          .share = nullptr,
          .pack = [](const Problem& p, const Parameters& w, Halves halves, void* to) { host.pack(p, w, halves, to); },
          .forward = [](const Problem& p, const LayerCall& a) { host.forward(p, a, unit); },
          .backward = nullptr,  // network/check.cpp refuses it
          .schedule = [](const Problem& p, int64_t t, int64_t b, bool backward,
                         int threads) { return backward ? Schedule{} : host.schedule(p, unit, t, b, threads); },
          .form = form};
}

}  // namespace
}  // namespace rnnk
