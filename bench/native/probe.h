/* Three measurements of the machine itself, for the benchmark: how fast it multiplies and adds, how fast it reads.
 *
 * They are not part of rnnkern.h: nothing in the library uses them. Each runs its own threads, not the team's, and uses the
 * widest instructions the CPU has, whatever kernel is chosen elsewhere.
 */
#ifndef RNNKERN_PROBE_H
#define RNNKERN_PROBE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  RNNK_PROBE_INVALID = -1, /* an argument is out of range */
  RNNK_PROBE_FAILED = -2   /* no memory or no threads */
};

/* GFLOP/s (10^9; a fused multiply-add counts as 2) of `threads` threads together, each running independent chains of
 * multiply-adds in registers for about `seconds`. dtype as rnnk_dtype: 0 float32, 1 float64, 2 bfloat16 summed into float32, in
 * the matrix unit where there is one (0.0 when the CPU has no such instruction); 3: float32 of 256 bits (AVX2). Below zero: one of
 * the enum above. */
double rnnk_probe_fma(int threads, int dtype, double seconds);

/* The same of float32 whose operands come from the caches, as a product's do: 24 sums (12 with 256 bits: narrow != 0), fed by
 * 256 KiB of weights. 0.0 where it is not written for the CPU. */
double rnnk_probe_fed(int threads, int narrow, double seconds);

/* GB/s (10^9 bytes) of `threads` threads together, each reading its own buffer of bytes_per_thread (a multiple of 1024 is
 * used, at least 1024) again and again for about `seconds`. Below zero: one of the enum above. */
double rnnk_probe_read(int threads, size_t bytes_per_thread, double seconds);

#ifdef __cplusplus
}
#endif
#endif
