// Rows of x made ready: kept columns split off, and for int8 a scale to each segment, in [-127, 127].
#pragma once

#include "product.h"

namespace kbit {
namespace LANES {

// The coded columns of x, in order, zeros after them; `to` holds `columns` floats.
KBIT_INLINE void gather(const View &w, const float *x, float *to, float *kept) {
  if (!w.m.n_kept) {
    __builtin_memcpy(to, x, sizeof(float) * static_cast<size_t>(w.coded));
  } else {
    for (int64_t c = 0; c < w.coded; ++c) to[c] = x[w.coded_columns[static_cast<size_t>(c)]];
    for (int64_t j = 0; j < w.m.n_kept; ++j) kept[j] = x[w.m.kept_columns[j]];
  }
  for (int64_t c = w.coded; c < w.columns; ++c) to[c] = 0.0f;
}

constexpr float kLeast = 0x1p-100f;  // a segment of smaller numbers counts as zeros, so that 127 / largest stays finite

// One segment: its codes at q, its scale and the sum of its codes.
KBIT_INLINE int32_t quantize_segment(const float *x, int64_t n, int8_t *q, float *scale) {
  Ints magnitude = broadcast(0);
  for (int64_t c = 0; c < n; c += 16)
    magnitude = max(magnitude, magnitude_bits(n - c >= 16 ? load_floats(x + c) : load_some(x + c, static_cast<int>(n - c))));
  const int32_t bits = largest(magnitude);
  float most;
  __builtin_memcpy(&most, &bits, 4);
  if (!(most >= kLeast) || bits >= 0x7f800000) {
    __builtin_memset(q, 0, static_cast<size_t>(n));
    *scale = bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
    return 0;
  }
  const Floats inverse = broadcast(127.0f / most);
  *scale = most / 127.0f;
  Ints total = broadcast(0);
  for (int64_t c = 0; c < n; c += 16) {
    const bool whole = n - c >= 16;
    const Ints codes = nearest((whole ? load_floats(x + c) : load_some(x + c, static_cast<int>(n - c))) * inverse);
    total = total + codes;
    if (whole) {
      store_int8(q + c, codes);
    } else {
      int8_t last[16];
      store_int8(last, codes);
      __builtin_memcpy(q + c, last, static_cast<size_t>(n - c));
    }
  }
  return sum(total);
}

inline void prepare_int8(const View &w, Activations &a, int64_t i, const float *x) {
  float *coded = a.x.data() + i * w.x_stride;
  gather(w, x, coded, a.kept.data() + i * w.m.n_kept);
  int8_t *q = a.q.data() + i * w.q_stride;
  __builtin_memset(q, 0, static_cast<size_t>(kGroup * w.steps));
  const int32_t carries = carried(w.m);
  for (size_t s = 0; s < w.segments.size(); ++s) {
    const Segment &segment = w.segments[s];
    const size_t at = s * static_cast<size_t>(a.n) + static_cast<size_t>(i);
    int8_t *to = q + kGroup * segment.step + segment.column % kGroup;
    const int32_t total = quantize_segment(coded + segment.column, segment.column_end - segment.column, to, &a.scale[at]);
    a.sum[at] = total;
    a.start[at] = -carries * total;
    if (w.m.shift) a.shifted[at] = a.scale[at] * static_cast<float>(total);
  }
}

inline void prepare_exact(const View &w, Activations &a, int64_t i, const float *x) {
  float *coded = a.x.data() + i * w.x_stride;
  gather(w, x, coded, a.kept.data() + i * w.m.n_kept);
  if (!w.m.shift) return;
  for (size_t s = 0; s < w.segments.size(); ++s) {
    float total = 0.0f;
    for (int64_t c = w.segments[s].column; c < w.segments[s].column_end; ++c) total += coded[c];
    a.shifted[s * static_cast<size_t>(a.n) + static_cast<size_t>(i)] = total;
  }
}

// Adds up `bytes` of data, 64 at a time: nothing but reading.
inline double read(const void *data, size_t bytes) {
  const uint8_t *p = static_cast<const uint8_t *>(data), *end = p + bytes / 512 * 512;
  Bytes all[8];
  each<8>([&](auto i) KBIT_LAMBDA { all[i] = field<0, 0, 0>(load_bytes(p)); });
  for (; p < end; p += 512) {
    each<8>([&](auto i) KBIT_LAMBDA { all[i] = all[i] | load_bytes(p + 64 * i); });
  }
  each<7>([&](auto i) KBIT_LAMBDA { all[0] = all[0] | all[i + 1]; });
  return sum(column<0>(all[0]));
}

}  // namespace LANES
}  // namespace kbit
