// The kernel list and the choice among it.
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/kernel.h"
#include "core/team.h"

namespace rnnk {

#define RNNK_KERNEL(name) extern const Kernel name##_kernel;
#include "core/kernels.generated.inc"
#undef RNNK_KERNEL

const Kernel* const kKernels[] = {
#define RNNK_KERNEL(name) &name##_kernel,
#include "core/kernels.generated.inc"
#undef RNNK_KERNEL
    nullptr};

namespace {

// Typical training shape, for the one choice a plan makes before it knows T and B.
constexpr int64_t kNominalSteps = 32, kNominalBatch = 16;

bool can_run(const Kernel& kernel, const Problem& problem, char* reason, int64_t size) {
  const char* missing = kernel.device != problem.device ? other_device(kernel) : unavailable(kernel);
  if (*missing) {
    std::strncpy(reason, missing, static_cast<size_t>(size - 1));
    reason[size - 1] = 0;
    return false;
  }
  return kernel.accepts(problem, reason, size);
}

bool is_kernel_of(int device, const char* name) {  // -1: of any
  for (auto k = kKernels; *k; ++k) {
    if (std::strcmp((*k)->name, name) == 0 && (device < 0 || (*k)->device == device)) return true;
  }
  return false;
}

}  // namespace

const char* other_device(const Kernel& kernel) {
  return kernel.device == RNNK_CUDA ? "it runs on a GPU, and the problem's device is the CPU"
                                    : "it runs on the CPU, and the problem's device is a GPU";
}

const Kernel& choose_kernel(const Problem& problem, const char* name) {
  char reason[240] = "";
  const bool from_environment = !name || !*name;
  if (from_environment) name = std::getenv("RNNKERN_KERNEL");
  // The environment forces one device's kernels; problems of the other choose freely.
  if (name && *name && from_environment && !is_kernel_of(problem.device, name) && is_kernel_of(-1, name)) name = nullptr;
  if (name && *name) {
    std::string known;
    for (auto k = kKernels; *k; ++k) {
      known += std::string(known.empty() ? "" : ", ") + (*k)->name;
      if (std::strcmp((*k)->name, name) != 0) continue;
      if (!can_run(**k, problem, reason, sizeof reason)) {
        fail(RNNK_NOT_SUPPORTED, "kernel %s was asked for by name but declines: %s", name, reason);
      }
      return **k;
    }
    fail(RNNK_INVALID_VALUE, "kernel: expected one of %s, got \"%.60s\"", known.c_str(), name);
  }
  const Kernel* best = nullptr;
  double best_us = 0;
  std::string why;
  for (auto k = kKernels; *k; ++k) {
    if (!can_run(**k, problem, reason, sizeof reason)) {
      why += std::string(why.empty() ? "" : "; ") + (*k)->name + ": " + reason;
      continue;
    }
    const double us = (*k)->estimate(problem, kNominalSteps, kNominalBatch, false, team_size());
    if (!best || us < best_us) best = *k, best_us = us;
  }
  if (!best) fail(RNNK_NOT_SUPPORTED, "no kernel does %s: %s", cell_info(problem.cell)->name, why.c_str());
  return *best;
}

}  // namespace rnnk
