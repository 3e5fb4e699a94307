// The exact product of a packed matrix and rows of 8-bit codes, and what becomes of its sums: product.h without floats.
#pragma once

#include "dots.h"
#include "fixed.h"
#include "fixed_words.h"

namespace kbit {
namespace LANES {

// The scales of the blocks of a tile, 16 to a block; NULL where a row has one, which multipliers hold.
KBIT_INLINE const uint8_t *block_scales(const View &w, int64_t tile) {
  return w.m.scales == KBIT_I8 ? static_cast<const uint8_t *>(w.m.scale) + tile * w.blocks * kRows : nullptr;
}

// What becomes of the sums of a tile's sixteen rows, acc, with rows [i, i_end) of x.
KBIT_INLINE void give_sums(const View &w, int64_t tile, const int32_t *acc, const FixedOutput &out, int64_t i, int64_t i_end) {
  const int64_t row = tile * kRows, stride = out.y_stride;
  const int n = static_cast<int>(w.rows_of(tile));
  const bool wide = out.wide;
  int32_t *const ints = static_cast<int32_t *>(out.y) + row;
  int16_t *const shorts = static_cast<int16_t *>(out.y) + row;
  if (!out.multiplier) {
    for (; i < i_end; ++i, acc += kRows) give(ints + i * stride, load_ints(acc), n);
    return;
  }
  const Ints multiplier = take(out.multiplier + row, n), shift = take(out.shift + row, n);
  const Ints bias = out.bias ? take(out.bias + row, n) : broadcast(0);
  const bool biased = out.bias;
  int32_t e = out.steps[i].e;
  Rounding places = rounding(max(shift - broadcast(e), broadcast(0)));  // beyond the last row shifts are any
  for (; i < i_end; ++i, acc += kRows) {
    const RowStep step = out.steps[i];
    if (step.e != e) e = step.e, places = rounding(max(shift - broadcast(e), broadcast(0)));
    const Longs product = multiply(load_ints(acc), multiplier * broadcast(step.a));
    Ints y = e <= out.least_shift ? rounded(product, places) : scaled_each(product, shift - broadcast(e));
    if (biased) y = add_saturated(y, bias);
    if (wide) give(ints + i * stride, y, n);
    else give(shorts + i * stride, y, n);
  }
}

// ---- one row of x
template <int K>
void fixed_row(const View &w, const FixedInput &x, int64_t tile, int64_t tile_end, const FixedOutput &out) {
  const Decoder<K, kLinear> decoder(w.m);
  for (; tile < tile_end; ++tile) {
    const uint8_t *unit = w.m.codes + tile * w.tile_bytes, *scales = block_scales(w, tile);
    const int8_t *q = x.q.data();
    Ints acc = broadcast(0);
    // A row with one scale is one piece: no sum of it overflows on the way, since |level| <= 127 and it has less than 2^17
    // columns.
    if (!scales) acc = dot_units(decoder, unit, q, w.columns, x.whole[0]);
    else
      for (size_t s = 0; s < w.segments.size(); ++s) {
        const Segment &segment = w.segments[s];
        const Ints isum = dot_units(decoder, unit, q, segment.column_end - segment.column, x.start[s]);
        acc = acc + isum * load_ints(scales + segment.block * kRows);
      }
    alignas(64) int32_t sums[kRows];
    store_ints(sums, acc);
    give_sums(w, tile, sums, out, 0, 1);
  }
}

// ---- several rows of x
template <int BITS, int T>
void fixed_panel_rows(const View &w, const FixedInput &x, const Chunk &chunk, const uint8_t *scales, const uint8_t *panel,
                      int64_t i, int32_t *acc) {
  const int64_t stride = w.q_stride, origin = w.segments[chunk.segment].step;
  Ints sums[T];
  each<T>([&](auto t) KBIT_LAMBDA { sums[t] = load_ints(acc + kRows * t); });
  for (size_t s = chunk.segment; s < chunk.segment_end; ++s) {
    const Segment &segment = w.segments[s];
    const int64_t steps = w.by_units ? pad(segment.step_end - segment.step, 8) : segment.step_end - segment.step;
    const int32_t *start = x.start.data() + s * static_cast<size_t>(x.n) + static_cast<size_t>(i);
    Ints ints[T];
    each<T>([&](auto t) KBIT_LAMBDA { ints[t] = broadcast(start[t]); });
    dot_rows<BITS, T>(ints, panel + 64 * (segment.step - origin), x.q.data() + i * stride + kGroup * segment.step, stride, steps);
    const Ints scale = scales ? load_ints(scales + segment.block * kRows) : broadcast(1);
    each<T>([&](auto t) KBIT_LAMBDA { sums[t] = sums[t] + ints[t] * scale; });
  }
  each<T>([&](auto t) KBIT_LAMBDA { store_ints(acc + kRows * t, sums[t]); });
}

template <int BITS, int T = kTokens>
void fixed_panel_all_rows(const View &w, const FixedInput &x, const Chunk &chunk, const uint8_t *scales, const uint8_t *panel,
                          int64_t i, int64_t i_end, int32_t *acc) {
  for (; i_end - i >= T; i += T, acc += kRows * T) fixed_panel_rows<BITS, T>(w, x, chunk, scales, panel, i, acc);
  if constexpr (T > 1)
    if (i < i_end) fixed_panel_all_rows<BITS, (T > 4 ? 4 : 1)>(w, x, chunk, scales, panel, i, i_end, acc);
}

template <int... K>
constexpr ByK<Unpack> linear_unpack_table(std::integer_sequence<int, K...>) {
  return {{nullptr, nullptr, unpack_units<K + 2, kLinear, 0>...}};
}
using FixedKs = std::make_integer_sequence<int, 7>;  // and 2 more: 2 .. 8
inline Unpack linear_unpack(int k) {
  static constexpr ByK<Unpack> table = linear_unpack_table(FixedKs{});
  return table.k[k];
}

inline void fixed_panels(const View &w, const FixedInput &x, int64_t tile, int64_t tile_end, const FixedOutput &out) {
  alignas(64) uint8_t units[512 * kPanelUnits], steps[64 * (kPanelSteps + 64)];
  alignas(64) int32_t acc[kRowsAtOnce * kRows];
  const Unpack unpack = linear_unpack(w.m.k);
  for (int64_t first = 0; first < x.n; first += kRowsAtOnce) {
    const int64_t end = x.n - first < kRowsAtOnce ? x.n : first + kRowsAtOnce;
    for (int64_t t = tile; t < tile_end; ++t) {
      __builtin_memset(acc, 0, sizeof(int32_t) * static_cast<size_t>((end - first) * kRows));
      for (size_t s = 0; s < w.segments.size();) {
        const Chunk chunk = next_chunk(w, s);
        const uint8_t *panel = make_panel(w, t, chunk, unpack, units, steps), *scales = block_scales(w, t);
        if (w.m.k == 8) fixed_panel_all_rows<8>(w, x, chunk, scales, panel, first, end, acc);
        else fixed_panel_all_rows<merged(7)>(w, x, chunk, scales, panel, first, end, acc);
        s = chunk.segment_end;
      }
      give_sums(w, t, acc, out, first, end);
    }
  }
}

using FixedRow = void (*)(const View &, const FixedInput &, int64_t tile, int64_t tile_end, const FixedOutput &);
template <int... K>
constexpr ByK<FixedRow> fixed_row_table(std::integer_sequence<int, K...>) {
  return {{nullptr, nullptr, fixed_row<K + 2>...}};
}
inline void fixed_product(const View &w, const FixedInput &x, int64_t tile, int64_t tile_end, const FixedOutput &out) {
  // Where panels hold a row of x at a time (scalar), they serve one row too: the fewer kernels to compile.
  if constexpr (kTokens > 1) {
    static constexpr ByK<FixedRow> rows = fixed_row_table(FixedKs{});
    if (x.n == 1 && w.by_units) return rows.k[w.m.k](w, x, tile, tile_end, out);
  }
  fixed_panels(w, x, tile, tile_end, out);
}

// ---- rows of x made ready, and rows of w
inline void fixed_prepare(const View &w, const int8_t *from, FixedInput &to, int64_t i) {
  int8_t *q = to.q.data() + i * w.q_stride;
  __builtin_memset(q, 0, static_cast<size_t>(kGroup * w.steps));
  const int32_t carries = carried(w.m);
  int32_t whole = 0;
  for (size_t s = 0; s < w.segments.size(); ++s) {
    const Segment &segment = w.segments[s];
    const int64_t count = segment.column_end - segment.column;
    __builtin_memcpy(q + kGroup * segment.step + segment.column % kGroup, from + segment.column, static_cast<size_t>(count));
    Ints total = broadcast(0);
    in_sixteens(count, [&](int64_t c, int n) KBIT_LAMBDA { total = total + take(from + segment.column + c, n); });
    const int32_t start = -carries * sum(total);
    to.start[s * static_cast<size_t>(to.n) + static_cast<size_t>(i)] = start;
    whole += start;
  }
  to.whole[static_cast<size_t>(i)] = whole;
}

// f(column, bytes of its sixteen rows in a stride of `apart`) for the columns of a tile, a unit at a time.
template <class F>
KBIT_INLINE void each_unit(const View &w, int64_t tile, F &&f) {
  alignas(64) uint8_t bytes[512];
  const Unpack unpack = linear_unpack(w.m.k);
  for (int64_t unit = 0; unit < w.units; ++unit) {
    unpack(w, tile, unit, unit + 1, bytes);
    const int64_t column = unit * kUnit;
    f(column, w.coded - column < kUnit ? w.coded - column : kUnit, bytes);
  }
}
KBIT_INLINE int code_of(const View &w, const uint8_t *bytes, int64_t column, int64_t row) {
  const uint8_t byte = bytes[64 * (column / kGroup) + kGroup * row + column % kGroup];
  return w.m.k == 8 && kWideBias == 0 ? byte ^ 0x80 : byte;
}

inline int64_t fixed_largest_sum(const View &w, int64_t tile, int64_t tile_end) {
  int64_t largest = 0;
  int highest = 0;
  for (; tile < tile_end; ++tile) {
    int64_t sums[kRows] = {};
    const uint8_t *scales = block_scales(w, tile);
    each_unit(w, tile, [&](int64_t column, int64_t count, const uint8_t *bytes) {
      for (int64_t c = 0; c < count; ++c) {
        const uint8_t *scale = scales ? scales + (column + c) / w.m.block * kRows : nullptr;
        for (int64_t row = 0; row < w.rows_of(tile); ++row) {
          const int code = code_of(w, bytes, c, row), level = code + w.m.first;
          highest = code > highest ? code : highest;
          sums[row] += (level < 0 ? -level : level) * (scale ? scale[row] : 1);
        }
      }
    });
    for (int64_t sum : sums) largest = sum > largest ? sum : largest;
  }
  return highest > -2 * w.m.first ? -1 : largest;
}

inline void fixed_embed(const View &w, int64_t token, int multiplier, int shift, int32_t *to) {
  const int64_t tile = token / kRows, row = token % kRows;
  const uint8_t *scales = block_scales(w, tile);
  each_unit(w, tile, [&](int64_t column, int64_t count, const uint8_t *bytes) {
    for (int64_t c = 0; c < count; ++c) {
      const int scale = scales ? scales[(column + c) / w.m.block * kRows + row] : 1;
      to[column + c] = scaled(static_cast<int64_t>(code_of(w, bytes, c, row) + w.m.first) * scale * multiplier, shift);
    }
  });
}

}  // namespace LANES
}  // namespace kbit
