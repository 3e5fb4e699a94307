// A matrix with the sizes that its layout implies, its cut into segments, and activations made ready for it.
#pragma once

#include <cstdint>
#include <vector>

#include "kbit.h"

namespace kbit {

constexpr int64_t pad(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

constexpr int kGroup = 4;  // columns that one dot product takes
constexpr int kUnit = KBIT_UNIT_COLUMNS, kRows = KBIT_TILE_ROWS;
constexpr int64_t kPanelSteps = 256;  // of 64 bytes: a panel of 16 KiB, half a level-1 cache

// Columns that share one scale of x and of w. `step` counts groups of four columns; a group that two segments share counts in
// each, with the other's x set to 0.
struct Segment {
  int64_t column, column_end;
  int64_t block;
  int64_t step, step_end;
};

struct View {
  kbit_matrix m;
  int64_t coded, columns;      // coded columns, and padded to units
  int64_t tiles, units;        // of rows; of 32 columns of a tile
  int64_t tile_bytes;          // codes of a tile
  int64_t blocks;              // of a row
  int64_t steps;               // of a row: columns / 4, or more where groups straddle segments
  int64_t q_stride, x_stride;  // of prepared rows, in codes and in floats: an odd number of cache lines, so that rows do not
                               // fall into one set of the level-1 cache, as those of 4096 bytes do
  bool by_units;               // every segment begins at a unit: codes can be multiplied as they are unpacked
  bool by_groups;              // every segment begins at a group: step i is group i
  std::vector<Segment> segments;
  std::vector<int32_t> coded_columns;  // of w, where some are kept

  explicit View(const kbit_matrix &matrix);
  int64_t rows_of(int64_t tile) const { return m.n_out - tile * kRows < kRows ? m.n_out - tile * kRows : kRows; }
};

// Rows of x, prepared: int8 codes by step for KBIT_INT8, floats by column for KBIT_EXACT. All rows have the strides below.
struct Activations {
  int64_t n = 0;
  std::vector<int8_t> q;       // (n, q_stride): by step
  std::vector<float> scale;    // (segments, n)
  std::vector<int32_t> sum;    // (segments, n): of q
  std::vector<int32_t> start;  // (segments, n): where integer sums start, so that what bytes carry beside their level cancels
  std::vector<float> shifted;  // (segments, n): what a minimum or mean is multiplied with
  std::vector<float> x;        // (n, x_stride): coded columns alone
  std::vector<float> kept;     // (n, n_kept)
};

// Keys and values of one head, of all positions so far. Keys lie in tiles of 16 positions, (tiles, head, 16), so that a tile's
// scores are one word; values as they come, (positions, head).
struct Attention {
  const float *keys, *values;
  int64_t head;    // numbers of a key
  float scale;     // of a score
  float *scores;   // room for kQueries rows of `stride`
  int64_t stride;  // positions that are room for, a multiple of 16
};
constexpr int kQueries = 4;  // rows that read keys and values together

// What an instruction set supplies: the algorithm of product.h, compiled over its lanes.
struct Kernels {
  const char *name;
  const uint64_t *shares_multiplied;  // read with __atomic_load_n
  // Row i of x, unquantized, (n_in) floats at `x`, into row i of `a`.
  void (*prepare_int8)(const View &, Activations &a, int64_t i, const float *x);
  void (*prepare_exact)(const View &, Activations &a, int64_t i, const float *x);
  // Tiles [tile, tile_end) of all rows of `a`, into y, rows y_stride floats apart.
  void (*product_int8)(const View &, const Activations &a, int64_t tile, int64_t tile_end, float *y, int64_t y_stride);
  void (*product_exact)(const View &, const Activations &a, int64_t tile, int64_t tile_end, float *y, int64_t y_stride);
  // Rows of tile `tile` from row `row` to `row_end` of the matrix, into out, n_in floats a row.
  void (*dequantize)(const View &, int64_t tile, int64_t row, int64_t row_end, float *out);
  double (*read)(const void *data, size_t bytes);

  // What a transformer does beside its products; operators.h. All rows are of floats.
  void (*rms_norm)(const float *x, const float *weight, int64_t width, float epsilon, float *y);
  void (*gate)(const float *gate, const float *up, int64_t width, float *y);  // silu(gate) * up
  void (*add)(const float *x, int64_t width, float *y);                       // y += x
  void (*dense)(const float *w, const float *x, int64_t n_out, int64_t n_in, float *y);
  void (*rotate)(float *x, const float *cosine, const float *sine, int64_t head);
  void (*attend)(const Attention &, const float *const *q, const int64_t *lengths, int rows, float *const *out);
};

}  // namespace kbit
