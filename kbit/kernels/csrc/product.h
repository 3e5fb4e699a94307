// The products of a packed matrix with prepared rows of x, once for all instruction sets, in the words of lanes_<isa>.h.
//
// One row of x: codes are unpacked, looked up and multiplied in registers (row_int8, row_exact). Several rows, or blocks that
// no unit divides: a tile's codes are unpacked once into a panel in the level-1 cache, which then meets every row of x
// (panel_int8, panel_exact). Both do the same sums in the same order; docs/kernels.md states it.
#pragma once

#include "dots.h"

namespace kbit {
namespace LANES {

// ---- one row of x, int8
// A segment's integers and what they are worth, onto acc.
KBIT_INLINE Floats add_segment(const View &w, int64_t tile, int64_t block, Ints isum, int32_t sum, float x_scale, float shifted,
                               Floats acc) {
  if (w.m.zero) isum = isum - zeros_at(w, tile, block) * broadcast(sum);
  Floats scale = scales_at(w, tile, block);
  if (w.m.coding == KBIT_TABLE) scale = scale * broadcast(w.m.step);
  acc = fma(to_floats(isum), scale * broadcast(x_scale), acc);
  if (w.m.shift) acc = fma(shift_at(w, tile, block), broadcast(shifted), acc);
  return acc;
}

template <int K, Coding C>
void row_int8(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y) {
  const Decoder<K, C> decoder(w.m);
  for (; tile < tile_end; ++tile) {
    const uint8_t *unit = w.m.codes + tile * w.tile_bytes;
    const int8_t *q = a.q.data();
    Floats acc = broadcast(0.0f);
    for (size_t s = 0; s < w.segments.size(); ++s) {
      const Segment &segment = w.segments[s];
      const Ints isum = dot_units(decoder, unit, q, segment.column_end - segment.column, a.start[s]);
      acc = add_segment(w, tile, segment.block, isum, a.sum[s], a.scale[s], w.m.shift ? a.shifted[s] : 0.0f, acc);
    }
    finish(w, tile, a.kept.data(), acc, y);
  }
}

// Levels of 16 bits: two tables, two sums.
template <int K>
void row_int16_levels(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y) {
  const Table<K> low(Levels<K, 0>(w.m).wide), high(Levels<K, 1>(w.m).wide);
  for (; tile < tile_end; ++tile) {
    const uint8_t *unit = w.m.codes + tile * w.tile_bytes;
    const int8_t *q = a.q.data();
    Floats acc = broadcast(0.0f);
    for (size_t s = 0; s < w.segments.size(); ++s) {
      const Segment &segment = w.segments[s];
      Ints lows = broadcast(a.start[s]), highs = lows;
      for (int64_t left = segment.column_end - segment.column; left > 0; left -= kUnit, unit += 64 * K, q += kUnit) {
        ask_ahead<64 * K>(unit);
        each<8>([&](auto g) KBIT_LAMBDA {
          const Bytes codes = codes_of<K, g>(unit);
          lows = dot<8>(lows, low(codes), q + kGroup * g);
          highs = dot<8>(highs, high(codes), q + kGroup * g);
        });
      }
      const Ints isum = times_256(highs) + lows;
      acc = add_segment(w, tile, segment.block, isum, a.sum[s], a.scale[s], w.m.shift ? a.shifted[s] : 0.0f, acc);
    }
    finish(w, tile, a.kept.data(), acc, y);
  }
}

// ---- panels
// Scales, zero points and shifts of a chunk's segments, decoded once.
struct ChunkScales {
  float scale[kPanelSteps + 1][kRows], shift[kPanelSteps + 1][kRows];
  Ints zero[kPanelSteps + 1];
};

// Ternary: a vector holds five groups; the bytes of a row that fill no vector lie row after row, five columns each.
inline void unpack_ternary(const View &w, int64_t tile, int64_t unit, int64_t unit_end, uint8_t *out) {
  const uint8_t *codes = w.m.codes + tile * w.tile_bytes;
  const int64_t row_bytes = w.tile_bytes / kRows, vectors = row_bytes / kGroup, group_end = unit_end * 8;
  int64_t group = unit * 8;
  while (group < group_end && group / 5 < vectors) {
    Bytes packed = load_bytes(codes + 64 * (group / 5));
    __builtin_prefetch(codes + 64 * (group / 5) + kAhead, 0, 2);
    for (int64_t passed = group % 5; passed > 0; --passed) packed = triple(packed);
    for (int64_t digits = 5 - group % 5; digits > 0 && group < group_end; --digits, ++group, out += 64) {
      store_bytes(out, first_digit(packed));
      packed = triple(packed);
    }
  }
  for (; group < group_end; out += 64, ++group)
    for (int i = 0; i < 64; ++i) {
      const int64_t at = group * kGroup + i % kGroup - 20 * vectors;  // which left-over column of row i / 4
      uint8_t x = codes[64 * vectors + kRows * (at / 5) + i / kGroup];
      for (int64_t digit = at % 5; digit > 0; --digit) x = static_cast<uint8_t>(3 * x);
      out[i] = static_cast<uint8_t>((3 * x) >> 8);
    }
}

template <Coding C, int PART, int... K>
constexpr ByK<Unpack> unpack_table(std::integer_sequence<int, K...>) {
  return {{nullptr, unpack_units<K + 1, C, PART>...}};
}
using Ks = std::make_integer_sequence<int, 8>;
inline Unpack unpack_of(const kbit_matrix &m, int part) {
  static constexpr ByK<Unpack> linear = unpack_table<kLinear, 0>(Ks{}), low = unpack_table<kTable8, 0>(Ks{}),
                               high = unpack_table<kTable16, 1>(Ks{});
  switch (coding_of(m)) {
    case kLinear: return linear.k[m.k];
    case kDoubled: return unpack_units<1, kDoubled, 0>;
    case kTernary: return unpack_ternary;
    default: return part ? high.k[m.k] : low.k[m.k];
  }
}

// T rows of x, from row i, over the segments of a chunk; acc (T, 16) goes on from chunk to chunk.
template <int BITS, bool TWO, int T>
void panel_rows(const View &w, const Activations &a, const Chunk &chunk, const ChunkScales &scales, const uint8_t *panel,
                const uint8_t *high_panel, int64_t i, float *acc) {
  const int64_t stride = w.q_stride;
  Floats sums[T];
  each<T>([&](auto t) KBIT_LAMBDA { sums[t] = load_floats(acc + kRows * t); });
  const int64_t origin = w.segments[chunk.segment].step;
  for (size_t s = chunk.segment; s < chunk.segment_end; ++s) {
    const Segment &segment = w.segments[s];
    const int64_t steps = w.by_units ? pad(segment.step_end - segment.step, 8) : segment.step_end - segment.step;
    const int64_t at = segment.step - origin;
    const int8_t *q = a.q.data() + i * stride + kGroup * segment.step;
    Ints ints[T];
    const size_t of = s * static_cast<size_t>(a.n) + static_cast<size_t>(i);
    const int32_t *start = a.start.data() + of, *sum = a.sum.data() + of;
    const float *x_scale = a.scale.data() + of, *shifted = a.shifted.data() + of;
    each<T>([&](auto t) KBIT_LAMBDA { ints[t] = broadcast(start[t]); });
    if constexpr (TWO) {
      Ints highs[T];
      each<T>([&](auto t) KBIT_LAMBDA { highs[t] = ints[t]; });
      dot_rows<BITS, T>(highs, high_panel + 64 * at, q, stride, steps);
      each<T>([&](auto t) KBIT_LAMBDA { ints[t] = ints[t] + times_256(highs[t]); });
    }
    dot_rows<BITS, T>(ints, panel + 64 * at, q, stride, steps);
    const size_t k = s - chunk.segment;
    const Floats scale = load_floats(scales.scale[k]);
    if (w.m.zero) each<T>([&](auto t) KBIT_LAMBDA { ints[t] = ints[t] - scales.zero[k] * broadcast(sum[t]); });
    each<T>([&](auto t) KBIT_LAMBDA { sums[t] = fma(to_floats(ints[t]), scale * broadcast(x_scale[t]), sums[t]); });
    if (w.m.shift)
      each<T>([&](auto t) KBIT_LAMBDA { sums[t] = fma(load_floats(scales.shift[k]), broadcast(shifted[t]), sums[t]); });
  }
  each<T>([&](auto t) KBIT_LAMBDA { store_floats(acc + kRows * t, sums[t]); });
}

// All rows [i, i_end), as many at once as registers hold, then fewer.
template <int BITS, bool TWO, int T = kTokens>
void panel_all_rows(const View &w, const Activations &a, const Chunk &chunk, const ChunkScales &scales, const uint8_t *panel,
                    const uint8_t *high_panel, int64_t i, int64_t i_end, float *acc) {
  for (; i_end - i >= T; i += T, acc += kRows * T) panel_rows<BITS, TWO, T>(w, a, chunk, scales, panel, high_panel, i, acc);
  if constexpr (T > 1)
    if (i < i_end)
      panel_all_rows<BITS, TWO, (T > 8 ? 8 : T > 4 ? 4 : T / 2)>(w, a, chunk, scales, panel, high_panel, i, i_end, acc);
}

inline void load_chunk_scales(const View &w, int64_t tile, const Chunk &chunk, bool with_step, ChunkScales &out) {
  for (size_t s = chunk.segment; s < chunk.segment_end; ++s) {
    const size_t k = s - chunk.segment;
    const int64_t block = w.segments[s].block;
    Floats scale = scales_at(w, tile, block);
    if (with_step) scale = scale * broadcast(w.m.step);
    store_floats(out.scale[k], scale);
    if (w.m.shift) store_floats(out.shift[k], shift_at(w, tile, block));
    if (w.m.zero) out.zero[k] = zeros_at(w, tile, block);
  }
}

inline void panel_int8(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y, int64_t y_stride) {
  alignas(64) uint8_t units[2][512 * kPanelUnits], steps[2][64 * (kPanelSteps + 64)];
  alignas(64) float acc[kRowsAtOnce * kRows];
  alignas(64) ChunkScales scales;
  const Unpack low = unpack_of(w.m, 0), high = unpack_of(w.m, 1);
  const Coding coding = coding_of(w.m);
  const bool two = coding == kTable16, wide = two || coding == kTable8 || w.m.k == 8;
  for (int64_t first = 0; first < a.n; first += kRowsAtOnce) {
    const int64_t end = a.n - first < kRowsAtOnce ? a.n : first + kRowsAtOnce;
    for (int64_t t = tile; t < tile_end; ++t) {
      __builtin_memset(acc, 0, sizeof(float) * static_cast<size_t>((end - first) * kRows));
      for (size_t s = 0; s < w.segments.size();) {
        const Chunk chunk = next_chunk(w, s);
        load_chunk_scales(w, t, chunk, w.m.coding == KBIT_TABLE, scales);
        const uint8_t *panel = make_panel(w, t, chunk, low, units[0], steps[0]);
        const uint8_t *high_panel = two ? make_panel(w, t, chunk, high, units[1], steps[1]) : nullptr;
        if (two) panel_all_rows<8, true>(w, a, chunk, scales, panel, high_panel, first, end, acc);
        else if (wide) panel_all_rows<8, false>(w, a, chunk, scales, panel, nullptr, first, end, acc);
        else if (w.m.k <= 4 || coding == kTernary)
          panel_all_rows<merged(4), false>(w, a, chunk, scales, panel, nullptr, first, end, acc);
        else if (w.m.k <= 6) panel_all_rows<merged(6), false>(w, a, chunk, scales, panel, nullptr, first, end, acc);
        else panel_all_rows<merged(7), false>(w, a, chunk, scales, panel, nullptr, first, end, acc);
        s = chunk.segment_end;
      }
      for (int64_t i = first; i < end; ++i)
        finish(w, t, a.kept.data() + i * w.m.n_kept, load_floats(acc + kRows * (i - first)), y + i * y_stride);
    }
  }
}

// ---- one row of x, ternary codes: a vector's digits leave it one after another, and multiply as they come
// Where whole bytes multiply, no digit is ever made. With x_0 a stored byte and x_(d+1) = 3 x_d mod 256, 3 x_d is 256 digit_d +
// x_(d+1); so the sum of digit_d q_d is (3 sum x_d q_d - sum x_(d+1) q_d) / 256.
struct TernarySums {
  Ints digits[2], next[2];  // by turns: one chain of sums would wait for itself
  KBIT_INLINE Ints of_levels() const {
    const Ints sum = digits[0] + digits[1], after = next[0] + next[1];
    if constexpr (kWideBias == 128) return over_256(sum + sum + sum - after);
    else return sum + after;
  }
};

// The eight groups of a unit, where the first is digit PHASE of a vector: `packed`, thrice as often as digits were taken, unless
// PHASE is 0. `vector` is the next to be read.
template <int PHASE>
KBIT_INLINE void ternary_unit(TernarySums &sums, Bytes &packed, const uint8_t *&vector, const int8_t *q) {
  each<8>([&](auto g) KBIT_LAMBDA {
    if constexpr ((PHASE + g) % 5 == 0) {
      packed = load_bytes(vector);
      __builtin_prefetch(vector + kAhead, 0, 2);
      vector += 64;
    }
    Ints &digits = sums.digits[g % 2], &next = sums.next[g % 2];
    if constexpr (kWideBias == 128) {
      digits = dot<8>(digits, packed, q + kGroup * g);
      packed = triple(packed);
      next = dot<8>(next, packed, q + kGroup * g);
    } else {
      digits = dot<2>(digits, first_digit(packed), q + kGroup * g);
      packed = triple(packed);
    }
  });
}

inline void row_ternary(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y) {
  const int64_t vectors = w.tile_bytes / kRows / kGroup;
  for (; tile < tile_end; ++tile) {
    const uint8_t *codes = w.m.codes + tile * w.tile_bytes, *vector = codes;
    const int8_t *q = a.q.data();
    Floats acc = broadcast(0.0f);
    Bytes packed{};
    int64_t unit = 0;
    int phase = 0;
    for (size_t s = 0; s < w.segments.size(); ++s) {
      const Segment &segment = w.segments[s];
      TernarySums sums = {{broadcast(0), broadcast(0)}, {broadcast(0), broadcast(0)}};
      Ints isum = broadcast(a.start[s]);
      for (; unit * kUnit < segment.column_end; ++unit, q += kUnit) {
        if ((8 * unit + 7) / 5 < vectors) {
          switch (phase) {
            case 0: ternary_unit<0>(sums, packed, vector, q); break;
            case 1: ternary_unit<1>(sums, packed, vector, q); break;
            case 2: ternary_unit<2>(sums, packed, vector, q); break;
            case 3: ternary_unit<3>(sums, packed, vector, q); break;
            default: ternary_unit<4>(sums, packed, vector, q); break;
          }
          phase = phase < 2 ? phase + 3 : phase - 2;  // eight groups on
        } else {                                      // the last columns of a row, where they fill no vector
          uint8_t bytes[512];
          unpack_ternary(w, tile, unit, unit + 1, bytes);
          isum = dot8<2>(isum, [&](auto g) KBIT_LAMBDA { return load_bytes(bytes + 64 * g); }, q);
        }
      }
      isum = isum + sums.of_levels();
      acc = add_segment(w, tile, segment.block, isum, a.sum[s], a.scale[s], w.m.shift ? a.shifted[s] : 0.0f, acc);
    }
    finish(w, tile, a.kept.data(), acc, y);
  }
}

using RowProduct = void (*)(const View &, const Activations &, int64_t tile, int64_t tile_end, float *y);
template <Coding C, int... K>
constexpr ByK<RowProduct> row_table(std::integer_sequence<int, K...>) {
  if constexpr (C == kTable16) return {{nullptr, row_int16_levels<K + 1>...}};
  else return {{nullptr, row_int8<K + 1, C>...}};
}
inline void product_int8(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y, int64_t y_stride) {
  static constexpr ByK<RowProduct> linear = row_table<kLinear>(Ks{}), narrow = row_table<kTable8>(Ks{}),
                                   wide = row_table<kTable16>(Ks{});
  const Coding coding = coding_of(w.m);
  if (a.n > 1 || !w.by_units) return panel_int8(w, a, tile, tile_end, y, y_stride);
  switch (coding) {
    case kLinear: return linear.k[w.m.k](w, a, tile, tile_end, y);
    case kDoubled: return row_int8<1, kDoubled>(w, a, tile, tile_end, y);
    case kTernary: return row_ternary(w, a, tile, tile_end, y);
    case kTable8: return narrow.k[w.m.k](w, a, tile, tile_end, y);
    default: return wide.k[w.m.k](w, a, tile, tile_end, y);
  }
}

}  // namespace LANES
}  // namespace kbit
