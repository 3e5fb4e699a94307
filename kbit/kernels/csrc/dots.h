// Whole numbers of a packed matrix and of rows of x: codes as they are unpacked, and dot products with them, in registers or in
// panels. What products with floats (product.h) and without (fixed_product.h) share.
#pragma once

#include <utility>

#include "weights.h"

namespace kbit {
namespace LANES {

// One function for each k, by number; k[0] is none.
template <class F>
struct ByK {
  F k[9];
};

// ---- one row of x
// start + the dot products of the units that hold the next `columns` of a tile with q. Both go on to what follows.
template <int K, Coding C>
KBIT_INLINE Ints dot_units(const Decoder<K, C> &decoder, const uint8_t *&unit, const int8_t *&q, int64_t columns, int32_t start) {
  constexpr int kBits = bits_of(K, C);
  Ints even = broadcast(start), odd = broadcast(0);
  for (; columns > 0; columns -= kUnit, unit += 64 * K, q += kUnit) {
    if constexpr (K < 8) ask_ahead<64 * K>(unit);
    if constexpr (kStepwise) {
      each<8>([&](auto g) KBIT_LAMBDA {
        Ints &to = g % 2 ? odd : even;  // by turns: one chain of sums would wait for itself
        to = dot<kBits>(to, decoder.template get<g>(unit), q + kGroup * g);
      });
    } else {
      even = dot8<kBits>(even, [&](auto g) KBIT_LAMBDA { return decoder.template get<g>(unit); }, q);
    }
  }
  return even + odd;
}

// ---- panels
// Wide or narrow bytes of units [unit, unit_end) of a tile: group after group, 64 bytes each.
template <int K, Coding C, int PART>
void unpack_units(const View &w, int64_t tile, int64_t unit, int64_t unit_end, uint8_t *out) {
  const uint8_t *codes = w.m.codes + tile * w.tile_bytes + unit * 64 * K;
  if constexpr (C == kTable8 || C == kTable16) {
    const Table<K> table(Levels<K, PART>(w.m).wide);
    for (; unit < unit_end; ++unit, codes += 64 * K, out += 512)
      ask_ahead<64 * K>(codes), each<8>([&](auto g) KBIT_LAMBDA { store_bytes(out + 64 * g, table(codes_of<K, g>(codes))); });
  } else {
    const Decoder<K, C> decoder(w.m);
    for (; unit < unit_end; ++unit, codes += 64 * K, out += 512)
      ask_ahead<64 * K>(codes), each<8>([&](auto g) KBIT_LAMBDA { store_bytes(out + 64 * g, decoder.template get<g>(codes)); });
  }
}
using Unpack = void (*)(const View &, int64_t tile, int64_t unit, int64_t unit_end, uint8_t *out);

// Consecutive segments [segment, segment_end) whose weights fit a panel.
struct Chunk {
  size_t segment, segment_end;
  int64_t unit, unit_end;  // that hold their columns
};
KBIT_INLINE Chunk next_chunk(const View &w, size_t segment) {
  size_t end = segment + 1;
  while (end < w.segments.size() && w.segments[end].step_end - w.segments[segment].step <= kPanelSteps) ++end;
  return {segment, end, w.segments[segment].column / kUnit, (w.segments[end - 1].column_end + kUnit - 1) / kUnit};
}
constexpr int64_t kPanelUnits = kPanelSteps / 8 + 2;  // a chunk may begin and end within a unit

// A chunk's bytes, so that segment s begins at 64 * (its step - the chunk's first step).
inline const uint8_t *make_panel(const View &w, int64_t tile, const Chunk &chunk, Unpack unpack, uint8_t *units, uint8_t *steps) {
  unpack(w, tile, chunk.unit, chunk.unit_end, units);
  if (w.by_groups) return units + 64 * (w.segments[chunk.segment].step - 8 * chunk.unit);
  uint8_t *out = steps;
  for (size_t s = chunk.segment; s < chunk.segment_end; ++s) {
    const Segment &segment = w.segments[s];
    const int64_t bytes = 64 * (segment.step_end - segment.step);
    __builtin_memcpy(out, units + 64 * (segment.column / kGroup - 8 * chunk.unit), static_cast<size_t>(bytes));
    out += bytes;
  }
  return steps;
}

constexpr int64_t kRowsAtOnce = 128;  // of x: with 4096 columns they take half a megabyte, which a level-2 cache holds

// Where an instruction set multiplies wide bytes as fast as narrow ones, all are treated as wide: the fewer kernels to compile.
constexpr int merged(int bits) { return kNarrowIsFaster ? bits : 8; }

// acc[t] += the dot products of `steps` steps of a panel with those of T rows of q.
template <int BITS, int T>
KBIT_INLINE void dot_rows(Ints (&acc)[T], const uint8_t *panel, const int8_t *q, int64_t stride, int64_t steps) {
  Ints odd[T];  // a second chain of sums where the rows are too few to overlap
  if constexpr (T <= 2) each<T>([&](auto t) KBIT_LAMBDA { odd[t] = broadcast(0); });
  for (; steps >= 8; steps -= 8, panel += 512, q += kUnit) {
    if constexpr (kStepwise) {
      each<8>([&](auto g) KBIT_LAMBDA {
        const Bytes w = load_bytes(panel + 64 * g);
        each<T>([&](auto t) KBIT_LAMBDA {
          Ints &to = T <= 2 && g % 2 ? odd[t] : acc[t];
          to = dot<BITS>(to, w, q + t * stride + kGroup * g);
        });
      });
    } else {
      each<T>([&](auto t) KBIT_LAMBDA {
        acc[t] = dot8<BITS>(acc[t], [&](auto g) KBIT_LAMBDA { return load_bytes(panel + 64 * g); }, q + t * stride);
      });
    }
  }
  for (; steps > 0; --steps, panel += 64, q += kGroup) {
    const Bytes w = load_bytes(panel);
    each<T>([&](auto t) KBIT_LAMBDA { acc[t] = dot<BITS>(acc[t], w, q + t * stride); });
  }
  if constexpr (T <= 2) each<T>([&](auto t) KBIT_LAMBDA { acc[t] = acc[t] + odd[t]; });
}

}  // namespace LANES
}  // namespace kbit
