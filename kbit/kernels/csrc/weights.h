// What the stored parts of a matrix become: codes the bytes that meet x, scales, zero points and shifts the words of a tile.
#pragma once

#include "view.h"

namespace kbit {
namespace LANES {

// ---- what the codes of a matrix become
enum Coding { kLinear, kDoubled, kTable8, kTable16, kTernary };  // kDoubled: k = 1, levels first and first + 2

KBIT_INLINE Coding coding_of(const kbit_matrix &m) {
  if (m.coding == KBIT_TERNARY) return kTernary;
  if (m.coding == KBIT_LINEAR) return m.rise == 2 ? kDoubled : kLinear;
  return m.integer_bits == 8 ? kTable8 : kTable16;
}

// Bits of a byte that meets x; 8 means a wide byte.
constexpr int bits_of(int k, Coding coding) { return coding == kTernary || coding == kDoubled ? 2 : coding == kLinear ? k : 8; }

// What a byte carries on top of its level: level = byte - carried.
KBIT_INLINE int32_t carried(const kbit_matrix &m) {
  const Coding coding = coding_of(m);
  if (coding == kTable8 || coding == kTable16) return kWideBias;
  if (coding == kTernary) return 1;
  return (m.k == 8 ? kWideBias - 128 : 0) - m.first;
}

// The codes of group G of a unit, at bit TO of each byte, plane by plane: widest plane, lowest bits.
template <int K, int G, int TO = 0>
KBIT_INLINE Bytes codes_of(const uint8_t *unit) {
  constexpr int kWidth = K >= 8 ? 8 : K >= 4 ? 4 : K >= 2 ? 2 : 1, kPerByte = 8 / kWidth;
  const Bytes low = field<kWidth *(G % kPerByte), kWidth, TO>(load_bytes(unit + 64 * (G / kPerByte)));
  if constexpr (K == kWidth) return low;
  else return low | codes_of<K - kWidth, G, TO + kWidth>(unit + 64 * kWidth);
}

// Bytes that meet x, from codes.
template <int K, Coding C>
struct Decoder {
  explicit KBIT_INLINE Decoder(const kbit_matrix &) {}
  template <int G>
  KBIT_INLINE Bytes get(const uint8_t *unit) const {
    const Bytes codes = codes_of<K, G, C == kDoubled ? 1 : 0>(unit);
    if constexpr (K == 8) return widen(codes);
    else return codes;
  }
};

// The wide bytes of a table: byte PART (0 low, 1 high) of integer levels, both signed: level = 256 * high + low.
template <int K, int PART>
struct Levels {
  uint8_t wide[1 << K];
  explicit KBIT_INLINE Levels(const kbit_matrix &m) {
    for (int i = 0; i < 1 << K; ++i) {
      const int level = m.integer_levels[i], low = static_cast<int8_t>(level);
      wide[i] = static_cast<uint8_t>((PART ? (level - low) / 256 : low) + kWideBias);
    }
  }
};
template <int K>
struct Decoder<K, kTable8> {
  Table<K> table;
  explicit KBIT_INLINE Decoder(const kbit_matrix &m) : table(Levels<K, 0>(m).wide) {}
  template <int G>
  KBIT_INLINE Bytes get(const uint8_t *unit) const {
    return table(codes_of<K, G>(unit));
  }
};

// Weights that a single row of x meets are read once: memory is the limit, and its pages the obstacle, at whose ends the
// machine's own prefetching stops. Bytes that the kernel meets four pages later are asked for now, into the level-2 cache, a unit
// at a time: on Zen 4 that makes k = 3 and 7 a third faster, while k = 8, which meets bytes as fast as memory gives them, loses.
constexpr int64_t kAhead = 16384;

// ---- scales
KBIT_INLINE Floats scales_at(const View &w, int64_t tile, int64_t block) {
  const kbit_matrix &m = w.m;
  const int64_t at = (tile * w.blocks + block) * kRows;
  if (m.per_tensor) {
    uint16_t halves[kRows];
    uint8_t bytes[kRows];
    for (int i = 0; i < kRows; ++i) {
      if (m.scales == KBIT_F16) halves[i] = *static_cast<const uint16_t *>(m.scale);
      else bytes[i] = *static_cast<const uint8_t *>(m.scale);
    }
    if (m.scales == KBIT_F16) return load_halves(halves);
    if (m.scales == KBIT_E8M0) return load_e8m0(bytes);
    if (m.scales == KBIT_E4M3) return load_e4m3(bytes) * broadcast(m.tensor_scale);
    for (int i = 0; i < kRows; ++i) halves[i] = m.second_scale[0];
    return load_uint8(bytes) * load_halves(halves) / broadcast(255.0f);
  }
  if (m.scales == KBIT_F16) {
    const uint16_t *halves = static_cast<const uint16_t *>(m.scale) + at;
    __builtin_prefetch(halves + kAhead / 8, 0, 2);
    return load_halves(halves);
  }
  const uint8_t *codes = static_cast<const uint8_t *>(m.scale) + at;
  if (m.scales == KBIT_E8M0) return load_e8m0(codes);
  if (m.scales == KBIT_E4M3) return load_e4m3(codes) * broadcast(m.tensor_scale);
  const int64_t together = m.scales == KBIT_I8 ? w.blocks : int64_t{KBIT_SECOND_LEVEL};
  const uint16_t *second = m.second_scale + (tile * ((w.blocks - 1) / together + 1) + block / together) * kRows;
  return load_uint8(codes) * load_halves(second) / broadcast(255.0f);
}
KBIT_INLINE Floats shift_at(const View &w, int64_t tile, int64_t block) {
  if (!w.m.per_tensor) return load_halves(w.m.shift + (tile * w.blocks + block) * kRows);
  uint16_t halves[kRows];
  for (auto &half : halves) half = *w.m.shift;
  return load_halves(halves);
}
KBIT_INLINE Ints zeros_at(const View &w, int64_t tile, int64_t block) {
  if (w.m.per_tensor) return broadcast(static_cast<int32_t>(*w.m.zero & ((1 << w.m.k) - 1)));
  return load_planes(w.m.zero + (tile * w.blocks + block) * 2 * w.m.k, w.m.k);
}
// Kept columns, and the way out: the last words of a row of y.
KBIT_INLINE void finish(const View &w, int64_t tile, const float *kept, Floats acc, float *y) {
  for (int64_t j = 0; j < w.m.n_kept; ++j)
    acc = fma(load_halves(w.m.kept_weight + (tile * w.m.n_kept + j) * kRows), broadcast(kept[j]), acc);
  const int64_t rows = w.rows_of(tile);
  if (rows == kRows) store_floats(y + tile * kRows, acc);
  else store_some(y + tile * kRows, acc, static_cast<int>(rows));
}

template <int BYTES>
KBIT_INLINE void ask_ahead(const uint8_t *p) {
  each<BYTES / 64>([&](auto i) KBIT_LAMBDA { __builtin_prefetch(p + kAhead + 64 * i, 0, 2); });
}

}  // namespace LANES
}  // namespace kbit
