// Cases of the executor's own test: each is a function that throws when something is not as it should be.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/exchange.cuh"
#include "cuda/runtime.h"
#include "simt/executor.h"
#include "simt/races.h"

namespace selftest {

using namespace rnnk;

struct Case {
  const char* name;
  void (*run)();
};
const std::vector<Case>& right();     // kernels without a fault
const std::vector<Case>& planted();   // kernels with one, which makes a number wrong
const std::vector<Case>& reported();  // kernels with one, which ends the launch
#define CASE(name) {#name, name}

inline void expect(bool holds, const std::string& what) {
  if (!holds) throw what;
}

constexpr uint64_t kSeeds = 20;

// How many of kSeeds orders make `correct` false.
template <class Correct>
uint64_t wrong(Correct&& correct) {
  uint64_t count = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    rnnk_simt_seed(seed);
    count += !correct();
  }
  return count;
}

// What a launch that fails says.
template <class Act>
std::string failure(Act&& act) {
  try {
    act();
  } catch (const Failure& failure) {
    expect(failure.code == RNNK_RUNTIME_ERROR, "the failure's code");
    return failure.text;
  }
  throw std::string("nothing was reported");
}

inline void expect_in(const std::string& text, const std::vector<const char*>& parts) {
  for (const char* part : parts)
    expect(text.find(part) != std::string::npos, "expected '" + std::string(part) + "' in: " + text);
}

// What faulty kernels get.
struct Given {
  uint32_t *data, *flags, *out;
  int64_t number;
};

// Launches with fresh memory, `out` long enough for every thread; whether out[i] == i + 1.
inline bool counts(void (*kernel)(Given), const gpu::Launch& how, int64_t number = 0) {
  const size_t all = static_cast<size_t>(how.grid_x * how.threads);
  std::vector<uint32_t> data(4 * all + 4, ~0u), flags(32, 0), out(all, 0);
  for (size_t i = 0; i < 4; ++i) data[i] = 0;
  gpu::launch(kernel, how, Given{data.data(), flags.data(), out.data(), number}, "planted");
  for (size_t i = 0; i < all; ++i) {
    if (out[i] != i + 1) return false;
  }
  return true;
}
// Nobody looks for races meanwhile.
struct NumbersAlone {
  NumbersAlone() { rnnk_simt_races(0); }
  ~NumbersAlone() { rnnk_simt_races(1); }
};
// How many of kSeeds orders have a race that is reported.
template <class Act>
uint64_t raced(Act&& act) {
  return wrong([&] {
    try {
      act();
      return true;
    } catch (const Failure& failure) {
      expect_in(failure.text, {"a data race", "before it", ".cpp:"});
      return false;
    }
  });
}
// The fault shows as a wrong number; and, if `races`, as a race where the executor looks for them.
inline void expect_found(void (*correct)(Given), void (*faulty)(Given), const gpu::Launch& how, int64_t number = 0,
                         bool races = true) {
  expect(wrong([&] { return counts(correct, how, number); }) == 0, "the kernel without the fault is right in every order");
  expect((raced([&] { counts(faulty, how, number); }) > 0) == races, races ? "a race is reported" : "no race is reported");
  const NumbersAlone alone;
  expect(wrong([&] { return counts(faulty, how, number); }) > 0, "the fault shows in some order");
}
inline std::string said(void (*kernel)(Given), const gpu::Launch& how, int64_t number = 0) {
  const std::string text = failure([&] { counts(kernel, how, number); });
  expect_in(text, {"kernel planted"});
  return text;
}

inline const gpu::Launch kOneWarp{1, 1, 32, 512, nullptr}, kOneBlock{1, 1, 128, 512, nullptr},
    kPair{2, 1, 64, 1024, nullptr, 2}, kAtOnce{4, 1, 64, 0, nullptr, 1, true};

template <class T>
T* shared_as(int64_t offset = 0) {
  return reinterpret_cast<T*>(gpu::shared() + offset);
}

}  // namespace selftest
