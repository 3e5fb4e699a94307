// The vocabulary of the kernels, in plain C++: what every lanes_<isa>.h supplies, and the reference of what each word means.
//
// A tile has 16 rows, so floats and integers come in sixteens, one to a row, and bytes in 64s: byte 4 * row + col is that row's
// weight in column col of a group of four columns. Every word has one exact meaning (IEEE float32, round to nearest even, one
// rounding a word; two's complement), so an algorithm written in these words gives the same bits on every instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// Not inlined: unrolled sixty-four times, the kernels would take minutes to compile.
#define KBIT_WORD __attribute__((noinline, unused)) static

namespace kbit {
namespace LANES {

constexpr int kTokens = 1;              // rows of x that a panel product holds in registers, integers
constexpr int kTokensExact = 1;         // the same, floats
constexpr int kTilesAtOnce = 1;         // tiles that an exact product of one row takes together: chains of additions that overlap
constexpr bool kUnrollsGroups = false;  // and eight copies of what it does with a group of columns are faster than a loop
constexpr bool kStepwise = true;        // dot products of several rows take turns step by step, not eight steps a row
constexpr bool kNarrowIsFaster = true;  // dot products of bytes below 128 are
constexpr int kWideBias = 0;            // what a wide byte carries on top of its value in [-128, 127], modulo 256

struct Bytes { uint8_t at[64]; };
struct Ints { int32_t at[16]; };
struct Floats { float at[16]; };

// ---- moving
KBIT_WORD Bytes load_bytes(const uint8_t *p) {
  Bytes b;
  std::memcpy(b.at, p, 64);
  return b;
}
KBIT_WORD void store_bytes(uint8_t *p, Bytes b) { std::memcpy(p, b.at, 64); }
KBIT_WORD Floats load_floats(const float *p) {
  Floats f;
  std::memcpy(f.at, p, 64);
  return f;
}
KBIT_WORD void store_floats(float *p, Floats f) { std::memcpy(p, f.at, 64); }
KBIT_WORD Floats load_some(const float *p, int n) {
  Floats f{};
  std::memcpy(f.at, p, 4 * n);
  return f;
}  // the rest are 0
KBIT_WORD void store_some(float *p, Floats f, int n) { std::memcpy(p, f.at, 4 * n); }  // the first n <= 16
KBIT_WORD Ints broadcast(int32_t i) {
  Ints v;
  for (auto &a : v.at) a = i;
  return v;
}
KBIT_WORD Floats broadcast(float f) {
  Floats v;
  for (auto &a : v.at) a = f;
  return v;
}

// ---- bytes
// Bits SHIFT .. SHIFT + WIDTH - 1 of each byte, moved to bit TO and up; all others 0.
template <int SHIFT, int WIDTH, int TO>
KBIT_WORD Bytes field(Bytes b) {
  for (auto &a : b.at) a = static_cast<uint8_t>(((a >> SHIFT) & ((1 << WIDTH) - 1)) << TO);
  return b;
}
KBIT_WORD Bytes operator|(Bytes a, Bytes b) {
  for (int i = 0; i < 64; ++i) a.at[i] |= b.at[i];
  return a;
}
// An unsigned byte u as the wide byte of value u - 128.
KBIT_WORD Bytes widen(Bytes b) {
  for (auto &a : b.at) a ^= 0x80;
  return b;
}
// Five ternary digits to a byte: the first of each, 0 .. 2; and three times each byte, which brings the next digit to the front.
KBIT_WORD Bytes first_digit(Bytes b) {
  for (auto &a : b.at) a = static_cast<uint8_t>((3 * a) >> 8);
  return b;
}
KBIT_WORD Bytes triple(Bytes b) {
  for (auto &a : b.at) a = static_cast<uint8_t>(3 * a);
  return b;
}

// A table of 2^K bytes that codes below 2^K are looked up in: wide bytes out.
template <int K>
struct Table {
  uint8_t at[1 << K];
  explicit Table(const uint8_t *wide) { std::memcpy(at, wide, sizeof at); }
  __attribute__((noinline)) Bytes operator()(Bytes codes) const {
    for (auto &a : codes.at) a = at[a];
    return codes;
  }
};

// ---- integer products
// acc[row] += sum over the 4 columns of byte * x. BITS <= 7: bytes are unsigned, below 2^BITS. BITS = 8: wide bytes, whose bias
// is counted as if it belonged to the value: the caller takes kWideBias * sum(x) off.
template <int BITS>
KBIT_WORD Ints dot(Ints acc, Bytes w, const int8_t *x) {
  for (int row = 0; row < 16; ++row)
    for (int col = 0; col < 4; ++col) {
      uint8_t byte = w.at[4 * row + col];
      acc.at[row] += (BITS == 8 ? static_cast<int8_t>(byte) : static_cast<int>(byte)) * x[col];
    }
  return acc;
}
// Eight groups, `get(G)` giving the bytes of group G as an integral constant: dot<BITS> eight times.
template <int BITS, class Get>
KBIT_INLINE Ints dot8(Ints acc, Get get, const int8_t *x) {
  each<8>([&](auto g) { acc = dot<BITS>(acc, get(g), x + 4 * g); });
  return acc;
}

// ---- integers
KBIT_WORD Ints operator+(Ints a, Ints b) {
  for (int i = 0; i < 16; ++i) a.at[i] += b.at[i];
  return a;
}
KBIT_WORD Ints operator-(Ints a, Ints b) {
  for (int i = 0; i < 16; ++i) a.at[i] -= b.at[i];
  return a;
}
KBIT_WORD Ints operator*(Ints a, Ints b) {
  for (int i = 0; i < 16; ++i) a.at[i] *= b.at[i];
  return a;
}
KBIT_WORD Ints over_256(Ints a) {  // of multiples of 256
  for (auto &v : a.at) v /= 256;
  return a;
}
KBIT_WORD Ints times_256(Ints a) {
  for (auto &v : a.at) v = static_cast<int32_t>(static_cast<uint32_t>(v) << 8);
  return a;
}
KBIT_WORD Ints max(Ints a, Ints b) {
  for (int i = 0; i < 16; ++i) a.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i];
  return a;
}
KBIT_WORD int32_t largest(Ints a) {
  int32_t m = a.at[0];
  for (int32_t v : a.at) m = v > m ? v : m;
  return m;
}
KBIT_WORD int32_t sum(Ints a) {
  int32_t s = 0;
  for (int32_t v : a.at) s += v;
  return s;
}
KBIT_WORD Ints magnitude_bits(Floats f) {
  Ints v;
  std::memcpy(v.at, f.at, 64);
  for (auto &a : v.at) a &= 0x7fffffff;
  return v;
}
KBIT_WORD Ints nearest(Floats f) {
  Ints v;
  for (int i = 0; i < 16; ++i) v.at[i] = static_cast<int32_t>(std::nearbyintf(f.at[i]));
  return v;
}
KBIT_WORD void store_int8(int8_t *p, Ints v) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(v.at[i]);
}  // in [-128, 127]
// K little-endian uint16, plane p holding bit p of 16 numbers: the numbers.
KBIT_WORD Ints load_planes(const uint8_t *p, int k) {
  Ints v{};
  for (int plane = 0; plane < k; ++plane)
    for (int row = 0; row < 16; ++row) v.at[row] |= ((p[2 * plane + row / 8] >> (row % 8)) & 1) << plane;
  return v;
}
// Byte COL of each row's four.
template <int COL>
KBIT_WORD Ints column(Bytes b) {
  Ints v;
  for (int row = 0; row < 16; ++row) v.at[row] = b.at[4 * row + COL];
  return v;
}

// ---- floats
KBIT_WORD Floats to_floats(Ints v) {
  Floats f;
  for (int i = 0; i < 16; ++i) f.at[i] = static_cast<float>(v.at[i]);
  return f;
}
KBIT_WORD Floats operator+(Floats a, Floats b) {
  for (int i = 0; i < 16; ++i) a.at[i] += b.at[i];
  return a;
}
KBIT_WORD Floats operator-(Floats a, Floats b) {
  for (int i = 0; i < 16; ++i) a.at[i] -= b.at[i];
  return a;
}
KBIT_WORD Floats operator*(Floats a, Floats b) {
  for (int i = 0; i < 16; ++i) a.at[i] *= b.at[i];
  return a;
}
KBIT_WORD Floats operator/(Floats a, Floats b) {
  for (int i = 0; i < 16; ++i) a.at[i] /= b.at[i];
  return a;
}
KBIT_WORD Floats fma(Floats a, Floats b, Floats c) {
  for (int i = 0; i < 16; ++i) c.at[i] = std::fmaf(a.at[i], b.at[i], c.at[i]);
  return c;
}
// The second where one of the two is NaN.
KBIT_WORD Floats max(Floats a, Floats b) {
  for (int i = 0; i < 16; ++i) a.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i];
  return a;
}
// The sum in one order on every machine: halves onto halves, 8 apart, then 4, 2, 1.
KBIT_WORD float sum(Floats f) {
  for (int apart = 8; apart; apart /= 2)
    for (int i = 0; i < apart; ++i) f.at[i] += f.at[i + apart];
  return f.at[0];
}
KBIT_WORD float largest(Floats f) {
  float m = f.at[0];
  for (float v : f.at) m = v > m ? v : m;
  return m;
}
// 2^n for n in [-126, 127].
KBIT_WORD Floats power_of_two(Ints n) {
  Floats f;
  for (int i = 0; i < 16; ++i) n.at[i] = (n.at[i] + 127) * (1 << 23);
  std::memcpy(f.at, n.at, 64);
  return f;
}
KBIT_WORD float half_to_float(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = static_cast<uint32_t>(h & 0x7fff) << 13, bits;
  float f;
  if (rest >= 0x0f800000) bits = rest + 0x70000000;  // infinity and NaN
  else if (rest >= 0x00800000) bits = rest + 0x38000000;
  else {  // subnormal: count * 2^-24
    f = static_cast<float>(h & 0x7fff) * 0x1p-24f;
    std::memcpy(&bits, &f, 4);
  }
  bits |= sign;
  std::memcpy(&f, &bits, 4);
  return f;
}
KBIT_WORD Floats load_halves(const uint16_t *p) {
  Floats f;
  for (int i = 0; i < 16; ++i) f.at[i] = half_to_float(p[i]);
  return f;
}
KBIT_WORD Floats load_uint8(const uint8_t *p) {
  Floats f;
  for (int i = 0; i < 16; ++i) f.at[i] = p[i];
  return f;
}
KBIT_WORD Floats load_e8m0(const uint8_t *p) {
  Floats f;
  for (int i = 0; i < 16; ++i) {
    uint32_t bits = p[i] ? static_cast<uint32_t>(p[i]) << 23 : 0x00400000;  // 2^-127 is subnormal
    std::memcpy(&f.at[i], &bits, 4);
  }
  return f;
}
// e4m3 without sign is a float16 whose bits are 7 places up, times 2^8.
KBIT_WORD Floats load_e4m3(const uint8_t *p) {
  Floats f;
  for (int i = 0; i < 16; ++i) f.at[i] = half_to_float(static_cast<uint16_t>((p[i] & 0x7f) << 7)) * 256.0f;
  return f;
}

// Floats looked up by the codes in byte COL of each row's four; codes are below 2^K.
template <int K>
struct FloatTable {
  const float *at;
  explicit FloatTable(const float *levels) : at(levels) {}
  template <int COL>
  __attribute__((noinline)) Floats get(Bytes codes) const {
    Floats f;
    for (int row = 0; row < 16; ++row) f.at[row] = at[codes.at[4 * row + COL]];
    return f;
  }
};

}  // namespace LANES
}  // namespace kbit
