// Integer-only inference: what an instruction set supplies for it. docs/fixedpoint.md writes the arithmetic down; every function
// here gives exactly those integers. No floating-point number is made, read or written behind this header.
#pragma once

#include "view.h"

namespace kbit {

constexpr int64_t kMostWidth = 131072;  // numbers of a row: up to here sums of squares are proven, one fewer those of products
constexpr int64_t kMostHead = 256;      // of a head
constexpr int kMostShift = 62;
constexpr int kExp2Knots = 257, kCurveKnots = 2049;

// A row of a buffer: int32, or int16.
struct Integers {
  const void *at;
  bool wide;
};

// What the codes of a row stand for: x ~ q * a * 2^e / L.
struct RowStep { int32_t a, e; };

// Rows of codes, laid out for a matrix: its q_stride, by step, with zeros after them.
struct FixedInput {
  int64_t n = 0;
  std::vector<int8_t> q;
  std::vector<int32_t> start;  // (segments, n): where sums start, so that what bytes carry beside their level cancels
  std::vector<int32_t> whole;  // (n): the same of a row in one piece
};

// Where sums go: y = saturated(scaled(sum * a * multiplier, shift - e) + bias), or the sum itself.
struct FixedOutput {
  const int16_t *multiplier;  // (n_out), or NULL: y is the sum
  const int8_t *shift;        // (n_out), 0 .. 62
  int least_shift;            // of these
  const int32_t *bias;        // (n_out), or NULL
  const RowStep *steps;       // of the rows of x
  void *y;                    // (n, y_stride): int32, or int16
  int64_t y_stride;
  bool wide;
};

struct FixedNorm {
  const int16_t *gamma;  // (width)
  const int32_t *bias;   // (width), or NULL
  int64_t width, epsilon;
  int shift, least;
  bool centred;  // LayerNorm, else RMSNorm
};

// How a row becomes codes.
struct FixedCodes {
  int k;
  int32_t a, e;   // a step that is given; a = 0: the row's own
  int64_t width;  // of Hadamard transforms before; below 2: none
};

// Keys and values of one head. Codes lie 128 up, as unsigned bytes, four of a position (of a column) side by side and sixteen of
// these in a word: keys (positions / 16, head / 4), values (head / 16, positions / 4). What no code has been written to holds 0
// in values, 128 up too.
struct FixedAttention {
  const uint8_t *keys, *values;
  const int16_t *key_steps, *value_steps;  // a of each position
  int64_t head;                            // numbers of a key
  int64_t capacity;                        // positions that are room for, a multiple of 16
  int multiplier, shift, k_v;
  const int64_t *exp2;  // (256): a knot, and 32 places up what the next is below it
  int32_t *scores;      // room for kQueries rows of `stride`, a multiple of 16
  int64_t stride;
};
constexpr int kDigits = 4;  // of 8 bits and a sign: a weight has 30

struct FixedKernels {
  const uint64_t *shares_multiplied;  // read with __atomic_load_n
  // Row i of x, n_in codes, into row i of `to`.
  void (*prepare)(const View &, const int8_t *q, FixedInput &to, int64_t i);
  // Tiles [tile, tile_end) of all rows of x.
  void (*product)(const View &, const FixedInput &x, int64_t tile, int64_t tile_end, const FixedOutput &);
  // The largest sum over columns of (scale of the block) * |level| in these tiles; -1 where a code has no level.
  int64_t (*largest_sum)(const View &, int64_t tile, int64_t tile_end);
  void (*embed)(const View &, int64_t token, int multiplier, int shift, int32_t *to);
  // scratch: room for the width, padded to 16, as in `quantize`.
  void (*norm)(const FixedNorm &, Integers from, int16_t *to, int32_t *scratch);
  RowStep (*quantize)(const FixedCodes &, Integers from, int64_t n, int8_t *to, int32_t *scratch);
  void (*rotate)(int16_t *x, const int16_t *cosine, const int16_t *sine, int64_t half);
  // Up to kQueries queries; the i-th sees the first lengths[i] positions.
  void (*attend)(const FixedAttention &, const int16_t *const *queries, const int64_t *lengths, int rows, int16_t *const *to);
  // up = NULL: activate. `pairs` has kCurveKnots numbers: each knot, and 16 places up the next.
  void (*gate)(const int16_t *gates, const int16_t *up, int64_t n, int places, const int32_t *pairs, int32_t *to);
  void (*add)(const int32_t *x, int64_t n, int32_t *to);
  void (*add_shifted)(const int16_t *x, int left, int64_t n, int32_t *to);
  // In place; scratch: as in `norm`.
  void (*hadamard)(int32_t *x, int64_t n, int64_t width, int shift, int32_t *scratch);
};

}  // namespace kbit
