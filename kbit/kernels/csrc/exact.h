// The product in float32: levels are looked up or made of codes, multiplied and added in the order that docs/kernels.md states.
#pragma once

#include "product.h"

namespace kbit {
namespace LANES {

// Levels as floats: out of a table, or a whole number less an offset (a zero point, or minus the first level).
enum Levelling { kLookedUp, kCounted };

KBIT_INLINE Levelling levelling_of(const kbit_matrix &m) {
  return m.zero || (m.coding == KBIT_LINEAR && m.k > 4) ? kCounted : kLookedUp;
}
template <int K, Levelling L>
struct FloatLevels {
  FloatTable<K> table;
  explicit KBIT_INLINE FloatLevels(const kbit_matrix &m) : table(m.levels) {}
  template <int COL>
  KBIT_INLINE Floats get(Bytes codes, Ints) const {
    return table.template get<COL>(codes);
  }
};
template <int K>
struct FloatLevels<K, kCounted> {
  explicit KBIT_INLINE FloatLevels(const kbit_matrix &) {}
  template <int COL>
  KBIT_INLINE Floats get(Bytes codes, Ints offset) const {
    return to_floats(column<COL>(codes) - offset);
  }
};

// f(c, G) for the groups of a unit, c[t] the codes of group G in tile t. A loop needs a buffer of codes, which costs AVX-512 a
// sixth of its speed; eight copies of f cost NEON, which has four registers to a word, its registers and a minute of compiling.
template <int K, int TILES, class F>
KBIT_INLINE void each_group(const uint8_t *unit, int64_t tile_bytes, F &&f) {
  Bytes c[TILES];
  if constexpr (kUnrollsGroups) {
    each<8>([&](auto g) KBIT_LAMBDA {
      each<TILES>([&](auto t) KBIT_LAMBDA { c[t] = codes_of<K, g>(unit + t * tile_bytes); });
      f(c, g);
    });
  } else {
    alignas(64) uint8_t codes[TILES][512];
    each<TILES>([&](auto t) KBIT_LAMBDA {
      each<8>([&](auto g) KBIT_LAMBDA { store_bytes(codes[t] + 64 * g, codes_of<K, g>(unit + t * tile_bytes)); });
    });
    for (int g = 0; g < 8; ++g) {
      each<TILES>([&](auto t) KBIT_LAMBDA { c[t] = load_bytes(codes[t] + 64 * g); });
      f(c, g);
    }
  }
}

// One row of x, TILES tiles at once.
template <int K, Levelling L, int TILES>
void row_exact_tiles(const View &w, const Activations &a, int64_t tile, float *y) {
  const FloatLevels<K, L> levels(w.m);
  const uint8_t *units = w.m.codes + tile * w.tile_bytes;
  const float *x = a.x.data();
  Floats acc[TILES];
  Ints offset[TILES];
  each<TILES>([&](auto t) KBIT_LAMBDA { acc[t] = broadcast(0.0f), offset[t] = broadcast(-w.m.first); });
  for (size_t s = 0; s < w.segments.size(); ++s) {
    const Segment &segment = w.segments[s];
    Floats sums[TILES];
    each<TILES>([&](auto t) KBIT_LAMBDA {
      sums[t] = broadcast(0.0f);
      if (w.m.zero) offset[t] = zeros_at(w, tile + t, segment.block);
    });
    for (int64_t left = segment.column_end - segment.column; left > 0; left -= kUnit, units += 64 * K, x += kUnit)
      each_group<K, TILES>(units, w.tile_bytes, [&](const Bytes(&c)[TILES], int g) KBIT_LAMBDA {
        each<TILES>([&](auto t) KBIT_LAMBDA {
          each<kGroup>([&](auto col) KBIT_LAMBDA {
            sums[t] = fma(levels.template get<col>(c[t], offset[t]), broadcast(x[kGroup * g + col]), sums[t]);
          });
        });
      });
    each<TILES>([&](auto t) KBIT_LAMBDA {
      acc[t] = fma(scales_at(w, tile + t, segment.block), sums[t], acc[t]);
      if (w.m.shift) acc[t] = fma(shift_at(w, tile + t, segment.block), broadcast(a.shifted[s]), acc[t]);
    });
  }
  each<TILES>([&](auto t) KBIT_LAMBDA { finish(w, tile + t, a.kept.data(), acc[t], y); });
}
inline void panel_exact(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y, int64_t y_stride);

template <int K, Levelling L>
void row_exact(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y) {
  for (; tile + kTilesAtOnce <= tile_end; tile += kTilesAtOnce) row_exact_tiles<K, L, kTilesAtOnce>(w, a, tile, y);
  if (tile < tile_end) panel_exact(w, a, tile, tile_end, y, 0);  // the same sums in the same order
}

// ---- panels of floats: columns of units [unit, unit_end) of a tile, 16 floats each; zero points not yet taken off
template <int K, Levelling L>
void unpack_floats(const View &w, int64_t tile, int64_t unit, int64_t unit_end, float *out) {
  const FloatLevels<K, L> levels(w.m);
  const Ints offset = broadcast(-w.m.first);
  const uint8_t *codes = w.m.codes + tile * w.tile_bytes + unit * 64 * K;
  for (; unit < unit_end; ++unit, codes += 64 * K, out += kUnit * kRows)
    each_group<K, 1>(codes, 0, [&](const Bytes(&c)[1], int g) KBIT_LAMBDA {
      each<kGroup>([&](auto col)
                       KBIT_LAMBDA { store_floats(out + kRows * (kGroup * g + col), levels.template get<col>(c[0], offset)); });
    });
}
inline void unpack_ternary_floats(const View &w, int64_t tile, int64_t unit, int64_t unit_end, float *out) {
  for (; unit < unit_end; ++unit, out += kUnit * kRows) {
    uint8_t bytes[512];
    unpack_ternary(w, tile, unit, unit + 1, bytes);
    for (int g = 0; g < 8; ++g)
      each<kGroup>([&](auto col) KBIT_LAMBDA {
        store_floats(out + kRows * (kGroup * g + col), to_floats(column<col>(load_bytes(bytes + 64 * g)) - broadcast(1)));
      });
  }
}
using UnpackFloats = void (*)(const View &, int64_t tile, int64_t unit, int64_t unit_end, float *out);
template <Levelling L, int... K>
constexpr ByK<UnpackFloats> unpack_floats_table(std::integer_sequence<int, K...>) {
  return {{nullptr, unpack_floats<K + 1, L>...}};
}
inline UnpackFloats unpack_floats_of(const kbit_matrix &m) {
  static constexpr ByK<UnpackFloats> looked_up = unpack_floats_table<kLookedUp>(Ks{}),
                                     counted = unpack_floats_table<kCounted>(Ks{});
  if (m.coding == KBIT_TERNARY) return unpack_ternary_floats;
  return levelling_of(m) == kCounted ? counted.k[m.k] : looked_up.k[m.k];
}

constexpr int64_t kFloatPanelColumns = 256;  // 16 KiB
KBIT_INLINE Chunk next_float_chunk(const View &w, size_t segment) {
  size_t end = segment + 1;
  while (end < w.segments.size() && w.segments[end].column_end - w.segments[segment].column <= kFloatPanelColumns) ++end;
  return {segment, end, w.segments[segment].column / kUnit, (w.segments[end - 1].column_end + kUnit - 1) / kUnit};
}
// The levels of a chunk, zero points taken off: column c at 16 * (c - 32 * chunk.unit).
inline void make_float_panel(const View &w, int64_t tile, const Chunk &chunk, UnpackFloats unpack, const ChunkScales &scales,
                             float *panel) {
  unpack(w, tile, chunk.unit, chunk.unit_end, panel);
  if (!w.m.zero) return;
  for (size_t s = chunk.segment; s < chunk.segment_end; ++s) {
    const Floats zero = to_floats(scales.zero[s - chunk.segment]);
    for (int64_t c = w.segments[s].column; c < w.segments[s].column_end; ++c) {
      float *at = panel + kRows * (c - kUnit * chunk.unit);
      store_floats(at, load_floats(at) - zero);
    }
  }
}

template <int T>
void float_panel_rows(const View &w, const Activations &a, const Chunk &chunk, const ChunkScales &scales, const float *panel,
                      int64_t i, float *acc) {
  const int64_t stride = w.x_stride;
  Floats totals[T];
  each<T>([&](auto t) KBIT_LAMBDA { totals[t] = load_floats(acc + kRows * t); });
  for (size_t s = chunk.segment; s < chunk.segment_end; ++s) {
    const Segment &segment = w.segments[s];
    const float *x = a.x.data() + i * stride;
    Floats sums[T];
    each<T>([&](auto t) KBIT_LAMBDA { sums[t] = broadcast(0.0f); });
    for (int64_t c = segment.column; c < segment.column_end; ++c) {
      const Floats level = load_floats(panel + kRows * (c - kUnit * chunk.unit));
      each<T>([&](auto t) KBIT_LAMBDA { sums[t] = fma(level, broadcast(x[t * stride + c]), sums[t]); });
    }
    const size_t k = s - chunk.segment;
    each<T>([&](auto t) KBIT_LAMBDA {
      totals[t] = fma(load_floats(scales.scale[k]), sums[t], totals[t]);
      if (w.m.shift)
        totals[t] = fma(load_floats(scales.shift[k]),
                        broadcast(a.shifted[s * static_cast<size_t>(a.n) + static_cast<size_t>(i + t)]), totals[t]);
    });
  }
  each<T>([&](auto t) KBIT_LAMBDA { store_floats(acc + kRows * t, totals[t]); });
}
template <int T = kTokensExact>
void float_panel_all_rows(const View &w, const Activations &a, const Chunk &chunk, const ChunkScales &scales, const float *panel,
                          int64_t i, int64_t i_end, float *acc) {
  for (; i_end - i >= T; i += T, acc += kRows * T) float_panel_rows<T>(w, a, chunk, scales, panel, i, acc);
  if constexpr (T > 1)
    if (i < i_end) float_panel_all_rows<(T > 8 ? 8 : T > 4 ? 4 : T / 2)>(w, a, chunk, scales, panel, i, i_end, acc);
}

inline void panel_exact(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y, int64_t y_stride) {
  alignas(64) float panel[(kFloatPanelColumns + 2 * kUnit) * kRows], acc[kRowsAtOnce * kRows];
  alignas(64) ChunkScales scales;
  const UnpackFloats unpack = unpack_floats_of(w.m);
  for (int64_t first = 0; first < a.n; first += kRowsAtOnce) {
    const int64_t end = a.n - first < kRowsAtOnce ? a.n : first + kRowsAtOnce;
    for (int64_t t = tile; t < tile_end; ++t) {
      __builtin_memset(acc, 0, sizeof(float) * static_cast<size_t>((end - first) * kRows));
      for (size_t s = 0; s < w.segments.size();) {
        const Chunk chunk = next_float_chunk(w, s);
        load_chunk_scales(w, t, chunk, false, scales);
        make_float_panel(w, t, chunk, unpack, scales, panel);
        float_panel_all_rows<>(w, a, chunk, scales, panel, first, end, acc);
        s = chunk.segment_end;
      }
      for (int64_t i = first; i < end; ++i)
        finish(w, t, a.kept.data() + i * w.m.n_kept, load_floats(acc + kRows * (i - first)), y + i * y_stride);
    }
  }
}

template <Levelling L, int... K>
constexpr ByK<RowProduct> row_exact_table(std::integer_sequence<int, K...>) {
  return {{nullptr, row_exact<K + 1, L>...}};
}
inline void product_exact(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y, int64_t y_stride) {
  static constexpr ByK<RowProduct> looked_up = row_exact_table<kLookedUp>(Ks{}), counted = row_exact_table<kCounted>(Ks{});
  if (a.n > 1 || !w.by_units || w.m.coding == KBIT_TERNARY) return panel_exact(w, a, tile, tile_end, y, y_stride);
  (levelling_of(w.m) == kCounted ? counted : looked_up).k[w.m.k](w, a, tile, tile_end, y);
}

// The rows of a tile that lie in [row, row_end), as float32: products and sums are rounded once each.
inline void dequantize(const View &w, int64_t tile, int64_t row, int64_t row_end, float *out) {
  alignas(64) float panel[(kFloatPanelColumns + 2 * kUnit) * kRows];
  alignas(64) ChunkScales scales;
  const UnpackFloats unpack = unpack_floats_of(w.m);
  const int64_t begin = row > tile * kRows ? row - tile * kRows : 0;
  const int64_t end = row_end - tile * kRows < kRows ? row_end - tile * kRows : kRows;
  float *to = out + (tile * kRows + begin - row) * w.m.n_in;
  for (size_t s = 0; s < w.segments.size();) {
    const Chunk chunk = next_float_chunk(w, s);
    load_chunk_scales(w, tile, chunk, false, scales);
    make_float_panel(w, tile, chunk, unpack, scales, panel);
    for (; s < chunk.segment_end; ++s) {
      const size_t k = s - chunk.segment;
      for (int64_t c = w.segments[s].column; c < w.segments[s].column_end; ++c) {
        float *at = panel + kRows * (c - kUnit * chunk.unit);
        Floats value = load_floats(at) * load_floats(scales.scale[k]);
        if (w.m.shift) value = value + load_floats(scales.shift[k]);
        store_floats(at, value);
        const int64_t column = w.m.n_kept ? w.coded_columns[static_cast<size_t>(c)] : c;
        for (int64_t r = begin; r < end; ++r) to[(r - begin) * w.m.n_in + column] = at[r];
      }
    }
  }
  for (int64_t j = 0; j < w.m.n_kept; ++j) {
    alignas(64) float kept[kRows];
    store_floats(kept, load_halves(w.m.kept_weight + (tile * w.m.n_kept + j) * kRows));
    for (int64_t r = begin; r < end; ++r) to[(r - begin) * w.m.n_in + w.m.kept_columns[j]] = kept[r];
  }
}

}  // namespace LANES
}  // namespace kbit
