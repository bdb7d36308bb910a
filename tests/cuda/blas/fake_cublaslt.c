/* A cuBLASLt for tests: the entry points that cuda/blas.cpp calls, by plain loops over host memory. It reads all it needs from
 * the descriptors it is given and refuses, as the real one does or worse, what the manual does not allow; its numbers are
 * written out here a second time on purpose. Matrices are by columns. `refused` says why the last refusal. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, INTERNAL_ERROR = 14, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_64F = 1, R_16F = 2, R_16BF = 14 };
enum { COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_64F = 70, COMPUTE_32F_FAST_TF32 = 77 };
enum { HANDLE = 0x11, DESCRIPTION = 0x22, LAYOUT = 0x33, PREFERENCE = 0x44 };
/* k of products that fail on purpose */
enum { K_UNKNOWN = 1009, K_NONE = 1013, K_BAD_STATE = 1019, K_BREAKS = 1021 };

typedef struct {
  int kind, compute, scale, op[2];
} Description;
typedef struct {
  int kind, type;
  uint64_t rows, cols;
  int64_t ld, stride;
  int32_t batch;
} Layout;
typedef struct {
  int kind;
  uint64_t workspace;
  uint32_t aligned[4];
} Preference;
typedef struct {
  uint64_t data[8];
} Algo;
typedef struct {
  Algo algo;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} Result;

const char* refused = "";
int handles = 0, searches = 0, living = 0;

static int refuse(const char* why) {
  refused = why;
  return INVALID_VALUE;
}
#define REQUIRE(x) \
  if (!(x)) return refuse(#x)

size_t cublasLtGetVersion(void) { return 130000; }
const char* cublasLtGetStatusName(int s) {
  return s == INVALID_VALUE      ? "CUBLAS_STATUS_INVALID_VALUE"
         : s == EXECUTION_FAILED ? "CUBLAS_STATUS_EXECUTION_FAILED"
         : s == INTERNAL_ERROR   ? "CUBLAS_STATUS_INTERNAL_ERROR"
         : s == NOT_SUPPORTED    ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                 : "CUBLAS_STATUS_OTHER";
}
int cublasLtCreate(void** handle) {
  int* made = malloc(sizeof *made);
  *made = HANDLE;
  *handle = made;
  ++handles;
  return SUCCESS;
}

static void* made(size_t bytes, int kind) {
  int* at = calloc(1, bytes);
  *at = kind;
  ++living;
  return at;
}
static int destroyed(void* at, int kind) {
  REQUIRE(at && *(int*)at == kind);
  free(at);
  --living;
  return SUCCESS;
}

int cublasLtMatmulDescCreate(Description** d, int compute, int scale) {
  REQUIRE(compute == COMPUTE_64F ? scale == R_64F
                                 : scale == R_32F && (compute == COMPUTE_32F || compute == COMPUTE_32F_PEDANTIC ||
                                                      compute == COMPUTE_32F_FAST_TF32));
  *d = made(sizeof **d, DESCRIPTION);
  (*d)->compute = compute, (*d)->scale = scale;
  return SUCCESS;
}
int cublasLtMatmulDescSetAttribute(Description* d, int attribute, const void* value, size_t bytes) {
  REQUIRE(d->kind == DESCRIPTION && (attribute == 3 || attribute == 4) && bytes == 4);
  int32_t op;
  memcpy(&op, value, 4);
  REQUIRE(op == 0 || op == 1);
  d->op[attribute - 3] = op;
  return SUCCESS;
}
int cublasLtMatmulDescDestroy(void* d) { return destroyed(d, DESCRIPTION); }

int cublasLtMatrixLayoutCreate(Layout** l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  REQUIRE(type == R_32F || type == R_64F || type == R_16F || type == R_16BF);
  REQUIRE(rows > 0 && cols > 0 && rows <= INT32_MAX && cols <= INT32_MAX && ld >= (int64_t)rows);
  *l = made(sizeof **l, LAYOUT);
  (*l)->type = type, (*l)->rows = rows, (*l)->cols = cols, (*l)->ld = ld, (*l)->batch = 1;
  return SUCCESS;
}
int cublasLtMatrixLayoutSetAttribute(Layout* l, int attribute, const void* value, size_t bytes) {
  REQUIRE(l->kind == LAYOUT && (attribute == 5 ? bytes == 4 : attribute == 6 && bytes == 8));
  memcpy(attribute == 5 ? (void*)&l->batch : &l->stride, value, bytes);
  REQUIRE(l->batch > 0);
  return SUCCESS;
}
int cublasLtMatrixLayoutDestroy(void* l) { return destroyed(l, LAYOUT); }

int cublasLtMatmulPreferenceCreate(Preference** p) {
  *p = made(sizeof **p, PREFERENCE);
  for (int i = 0; i < 4; ++i) (*p)->aligned[i] = 256;
  return SUCCESS;
}
int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t bytes) {
  REQUIRE(p->kind == PREFERENCE && (attribute == 1 ? bytes == 8 : attribute >= 5 && attribute <= 8 && bytes == 4));
  memcpy(attribute == 1 ? (void*)&p->workspace : &p->aligned[attribute - 5], value, bytes);
  for (int i = 0; i < 4; ++i) REQUIRE(p->aligned[i] && !(p->aligned[i] & (p->aligned[i] - 1)));
  return SUCCESS;
}
int cublasLtMatmulPreferenceDestroy(void* p) { return destroyed(p, PREFERENCE); }

static int fit(const Description* d, const Layout* a, const Layout* b, const Layout* c, const Layout* e) {
  REQUIRE(d->kind == DESCRIPTION && a->kind == LAYOUT && b->kind == LAYOUT && c->kind == LAYOUT && e->kind == LAYOUT);
  const uint64_t m = d->op[0] ? a->cols : a->rows, k = d->op[0] ? a->rows : a->cols;
  REQUIRE(k == (d->op[1] ? b->cols : b->rows));
  REQUIRE(c->rows == m && c->cols == (d->op[1] ? b->rows : b->cols));
  REQUIRE(e->rows == c->rows && e->cols == c->cols && e->ld == c->ld && e->type == c->type && e->stride == c->stride);
  REQUIRE(a->batch == b->batch && b->batch == c->batch && c->batch == e->batch);
  REQUIRE(c->batch == 1 || c->stride != 0);
  REQUIRE(a->type == b->type && c->type == d->scale);
  REQUIRE(d->compute == COMPUTE_64F   ? a->type == R_64F
          : d->compute == COMPUTE_32F ? a->type == R_16F || a->type == R_16BF /* real: R_32F too, but then not strict */
                                      : a->type == R_32F);
  return SUCCESS;
}

/* What an algorithm is good for: these sizes and types. */
static uint64_t print(const Description* d, const Layout* a, const Layout* b, const Layout* c) {
  const uint64_t parts[] = {d->compute, d->op[0], d->op[1], a->rows,   a->cols,   a->ld,     b->rows, b->cols,
                            b->ld,      c->ld,    a->type,  a->stride, b->stride, c->stride, a->batch};
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < sizeof parts / sizeof *parts; ++i) h = (h ^ parts[i]) * 1099511628211u;
  return h;
}

int cublasLtMatmulAlgoGetHeuristic(int* handle, Description* d, Layout* a, Layout* b, Layout* c, Layout* e, Preference* p,
                                   int asked, Result* results, int* returned) {
  REQUIRE(*handle == HANDLE && p->kind == PREFERENCE && asked > 0);
  ++searches;
  const int status = fit(d, a, b, c, e);
  if (status) return status;
  const uint64_t k = d->op[0] ? a->rows : a->cols;
  if (k == K_UNKNOWN) return NOT_SUPPORTED;
  *returned = k != K_NONE;
  memset(results, 0xff, sizeof *results);
  results->state = k == K_BAD_STATE ? INTERNAL_ERROR : SUCCESS;
  results->workspace = p->workspace < 4096 ? p->workspace : 4096;
  results->algo.data[0] = print(d, a, b, c);
  for (int i = 0; i < 4; ++i) results->algo.data[1 + i] = p->aligned[i];
  results->algo.data[5] = results->workspace;
  return SUCCESS;
}

static double value(const void* data, int type, int64_t i) {
  if (type == R_64F) return ((const double*)data)[i];
  if (type == R_32F) return ((const float*)data)[i];
  const uint16_t h = ((const uint16_t*)data)[i];
  if (type == R_16BF) {
    const uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
  }
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                      : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                     : ldexp(mantissa, -24);
  return h & 0x8000 ? -size : size;
}
static double rounded_to_tf32(double v) { /* ties to even, as the manual says */
  float f = (float)v;
  uint32_t u;
  memcpy(&u, &f, 4);
  u = (u + 0xfff + (u >> 13 & 1)) & ~0x1fffu;
  memcpy(&f, &u, 4);
  return f;
}

static int aligned(const void* data, int64_t stride, int type, uint64_t bytes) {
  const int64_t size = type == R_64F ? 8 : type == R_32F ? 4 : 2;
  return ((uintptr_t)data | (uint64_t)(stride * size)) % bytes == 0;
}

int cublasLtMatmul(int* handle, Description* d, const void* alpha, const void* a, Layout* la, const void* b, Layout* lb,
                   const void* beta, const void* c, Layout* lc, void* result, Layout* le, const Algo* algo, void* workspace,
                   size_t workspace_bytes, void* stream) {
  (void)stream;
  REQUIRE(*handle == HANDLE);
  const int status = fit(d, la, lb, lc, le);
  if (status) return status;
  REQUIRE(algo && algo->data[0] == print(d, la, lb, lc));
  const int64_t some = la->batch > 1;
  REQUIRE(aligned(a, some * la->stride, la->type, algo->data[1]) && aligned(b, some * lb->stride, lb->type, algo->data[2]));
  REQUIRE(aligned(c, some * lc->stride, lc->type, algo->data[3]));
  REQUIRE(c == result && (uintptr_t)workspace % 256 == 0 && workspace_bytes >= algo->data[5]);
  REQUIRE(workspace || !workspace_bytes);
  memset(workspace, 0xee, algo->data[5]);
  const double scale = value(alpha, d->scale, 0), keep = value(beta, d->scale, 0);
  REQUIRE(scale == 1 && (keep == 0 || keep == 1));
  const int64_t m = lc->rows, n = lc->cols, k = d->op[0] ? la->rows : la->cols;
  if (k == K_BREAKS) return EXECUTION_FAILED;
  for (int64_t i = 0; i < lc->batch; ++i) {
    for (int64_t col = 0; col < n; ++col) {
      for (int64_t row = 0; row < m; ++row) {
        double sum = 0;
        for (int64_t s = 0; s < k; ++s) {
          double x = value(a, la->type, i * la->stride + (d->op[0] ? row * la->ld + s : s * la->ld + row));
          double y = value(b, lb->type, i * lb->stride + (d->op[1] ? s * lb->ld + col : col * lb->ld + s));
          if (d->compute == COMPUTE_32F_FAST_TF32) x = rounded_to_tf32(x), y = rounded_to_tf32(y);
          sum += x * y;
        }
        const int64_t at = i * lc->stride + col * lc->ld + row;
        if (keep) sum += value(c, lc->type, at);
        if (lc->type == R_64F) ((double*)result)[at] = sum;
        else ((float*)result)[at] = (float)sum;
      }
    }
  }
  return SUCCESS;
}
