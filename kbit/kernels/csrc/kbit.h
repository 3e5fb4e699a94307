/* The C interface of the kernels: a packed k-bit matrix, and its product with float32 activations.
 *
 * docs/formats.md describes the bytes, docs/kernels.md the arithmetic and its order. Nothing here knows Python or torch.
 * Callers check sizes: a kernel reads exactly the bytes that the layout gives a matrix of this shape, and none beyond.
 */
#ifndef KBIT_H
#define KBIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KBIT_TILE_ROWS = 16, KBIT_UNIT_COLUMNS = 32, KBIT_SEGMENT = 128, KBIT_SECOND_LEVEL = 16 };

enum kbit_coding { KBIT_LINEAR = 0, KBIT_TABLE = 1, KBIT_TERNARY = 2 };
enum kbit_scales { KBIT_F16 = 0, KBIT_S8 = 1, KBIT_E8M0 = 2, KBIT_E4M3 = 3, KBIT_I8 = 4 };
enum kbit_compute { KBIT_EXACT = 0, KBIT_INT8 = 1 };

/* A packed matrix w (n_out, n_in). Pointers may be NULL where the format has no such part. */
typedef struct kbit_matrix {
  int64_t n_out;      /* rows */
  int64_t n_in;       /* columns, kept ones included: the length of a row of x */
  int64_t n_kept;     /* columns in float16; the other n_in - n_kept are coded */
  int64_t block;      /* coded columns that share a scale; at least n_in - n_kept where one scale serves the row */
  int32_t k;          /* bits of a code, 1..8; 2 for ternary */
  int32_t coding;     /* kbit_coding: LINEAR: level = first + rise * code; TABLE and TERNARY: level = levels[code] */
  int32_t first;      /* integer level of code 0 of a LINEAR matrix; 0 where it has zero points */
  int32_t rise;       /* from a LINEAR level to the next: 1, or 2 for {-1, +1} */
  int32_t scales;     /* kbit_scales */
  int32_t per_tensor; /* 1: one scale (zero, shift) serves the matrix */
  float step;         /* level = integer level * step; 1 for LINEAR */
  float tensor_scale; /* of KBIT_E4M3 */
  const uint8_t *codes;
  const void *scale;             /* uint16 bits of float16, or uint8 */
  const uint16_t *second_scale;  /* float16, of KBIT_S8 (16 blocks share one) and KBIT_I8 (a row does) */
  const uint8_t *zero;           /* bit planes of zero points */
  const uint16_t *shift;         /* float16 minimum or mean */
  const float *levels;           /* 2^k floats, the last repeated; for every coding */
  const int16_t *integer_levels; /* 2^k, TABLE and TERNARY */
  int32_t integer_bits;          /* 8 or 16: what the integer levels need */
  const int32_t *kept_columns;   /* ascending */
  const uint16_t *kept_weight;   /* float16, tile by tile: (tiles, n_kept, 16) */
} kbit_matrix;

/* y (n, n_out) = x (n, n_in) w^T, float32, rows of x and y `x_stride` and `y_stride` floats apart. Returns 0, or -1 without
 * memory. */
int kbit_product(const kbit_matrix *w, const float *x, int64_t n, int64_t x_stride, float *y, int64_t y_stride, int compute);

/* w as float32, rows [row, row_end) into out (row_end - row, n_in). */
int kbit_dequantize(const kbit_matrix *w, int64_t row, int64_t row_end, float *out);

/* int8 codes of one row of x by segment, as kbit_product makes them: q (n_in - n_kept), scale and sum one to a segment. Returns
 * as kbit_product. */
int kbit_quantize_activations(const kbit_matrix *w, const float *x, int8_t *q, float *scale, int32_t *sum);

/* Exact products of integers, of a matrix whose codes are whole numbers -L .. L times one scale a row, or (KBIT_I8) an 8-bit
 * scale m of each block: y (n, n_out) = sum over blocks of m * sum of code * q, int32; m = 1 without blocks. q (n, n_in), -127 ..
 * 127. The caller sees to it that max |q| * kbit_largest_sum < 2^31. Returns as kbit_product. */
int kbit_fixed_product(const kbit_matrix *w, const int8_t *q, int64_t n, int32_t *y);

/* The largest sum over the columns of a row of m * |code|; -1 where the matrix is not of that kind, or a code has no level. */
int64_t kbit_largest_sum(const kbit_matrix *w);

/* Instruction sets, best first. Names of those that were built; whether this machine runs one; the one in use. */
int kbit_isa_count(void);
const char *kbit_isa_name(int index);
int kbit_isa_runs(int index);
uint64_t kbit_isa_shares(int index); /* shares of products that its code has computed so far: proof of which one ran */
const char *kbit_isa(void);
int kbit_set_isa(const char *name); /* 0, or -1 where it was not built or does not run here; KBIT_ISA does it at start */

/* Threads of kbit's own pool that a product may use; 1 runs in the caller. */
void kbit_set_threads(int threads);
int kbit_threads(void);

/* Bytes read per second by `threads` threads that stream `data`, again and again for `rounds` times: the ceiling of a product.
 * The median over pieces of 8 MiB a thread; 0 where `bytes` is less. */
double kbit_read_bandwidth(const void *data, size_t bytes, int threads, int rounds);

#ifdef __cplusplus
}
#endif
#endif
