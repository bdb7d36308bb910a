/* A host that loads librnnkern (argv[1]), computes with two threads and ends as argv[2] says:
 *   unload        dlclose while the library's workers wait, then a while of other work
 *   exit          exit() in another thread while this one computes */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rnnkern/rnnkern.h"

#define LOAD(name) name##_t name##_p = (name##_t)dlsym(library, #name)
typedef rnnk_status (*rnnk_set_num_threads_t)(int32_t);
typedef rnnk_status (*rnnk_plan_create_t)(const rnnk_problem*, const char*, rnnk_plan**);
typedef rnnk_status (*rnnk_plan_sizes_t)(const rnnk_plan*, int64_t, int64_t, rnnk_sizes*);
typedef rnnk_status (*rnnk_pack_weights_t)(const rnnk_plan*, const rnnk_weights*, int32_t, void*, size_t, void*);
typedef rnnk_status (*rnnk_forward_t)(const rnnk_plan*, const rnnk_args*);
typedef void (*rnnk_plan_destroy_t)(rnnk_plan*);

enum { I = 64, H = 128, T = 20, B = 16 };

static void* end(void* unused) {
  struct timespec soon = {0, 5000000};
  nanosleep(&soon, NULL);
  exit(0);
  return unused;
}
static void* zeros(size_t bytes) {
  const size_t size = (bytes + 63) / 64 * 64 + 64;
  return memset(aligned_alloc(64, size), 0, size);
}

int main(int argc, char** argv) {
  void* library = argc == 3 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
  if (!library) return fprintf(stderr, "%s\n", argc == 3 ? dlerror() : "unload LIBRARY unload|exit"), 2;
  LOAD(rnnk_set_num_threads);
  LOAD(rnnk_plan_create);
  LOAD(rnnk_plan_sizes);
  LOAD(rnnk_pack_weights);
  LOAD(rnnk_forward);
  LOAD(rnnk_plan_destroy);
  rnnk_problem problem = {.struct_size = sizeof problem, .cell = RNNK_CELL_gru, .input_size = I, .hidden_size = H};
  rnnk_sizes sizes = {.struct_size = sizeof sizes};
  rnnk_plan* plan = NULL;
  if (rnnk_set_num_threads_p(2) || rnnk_plan_create_p(&problem, NULL, &plan) || rnnk_plan_sizes_p(plan, T, B, &sizes))
    return 3;
  const rnnk_weights w = {.struct_size = sizeof w,
                          .weight_ih = {.data = zeros(4L * 3 * H * I), .stride = {I, 1}},
                          .weight_hh = {.data = zeros(4L * 3 * H * H), .stride = {H, 1}},
                          .bias_ih = {.data = zeros(4L * 3 * H), .stride = {1}},
                          .bias_hh = {.data = zeros(4L * 3 * H), .stride = {1}}};
  void* packed = zeros(sizes.packed);
  if (rnnk_pack_weights_p(plan, &w, RNNK_PACK_FORWARD, packed, sizes.packed, NULL)) return 4;
  rnnk_args args = {.struct_size = sizeof args,
                    .seq_len = T,
                    .batch = B,
                    .packed = packed,
                    .packed_size = sizes.packed,
                    .workspace = zeros(sizes.workspace_forward),
                    .workspace_size = sizes.workspace_forward};
  const rnnk_tensor x = {.data = zeros(4L * T * B * I), .stride = {(int64_t)B * I, I, 1}, .dtype = RNNK_FLOAT32};
  const rnnk_tensor y = {.data = zeros(4L * T * B * H), .stride = {(int64_t)B * H, H, 1}, .dtype = RNNK_FLOAT32};
  args.x = x, args.y = y;
  if (rnnk_forward_p(plan, &args)) return 5;
  if (!strcmp(argv[2], "exit")) {
    pthread_t other;
    if (pthread_create(&other, NULL, end, NULL)) return 6;
    for (;;) rnnk_forward_p(plan, &args);
  }
  rnnk_plan_destroy_p(plan);
  dlclose(library);
  struct timespec while_ = {0, 20000000}; /* the workers stop spinning, and park: in the library's code */
  nanosleep(&while_, NULL);
  return 0;
}
