// The vocabulary in AVX-512 (F, BW, VL, DQ), and better words where VNNI and VBMI are there. Meanings: lanes_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kbit {
namespace LANES {

constexpr int kTokens = 12;
constexpr int kTokensExact = 12;
constexpr int kTilesAtOnce = 4;
constexpr bool kUnrollsGroups = true;
#ifdef __AVX512VNNI__
constexpr bool kStepwise = true;
constexpr bool kNarrowIsFaster = false;
constexpr int kWideBias = 128;  // vpdpbusd wants its first factor unsigned
#else
constexpr bool kStepwise = false;
constexpr bool kNarrowIsFaster = true;
constexpr int kWideBias = 0;
#endif

struct Bytes { __m512i v; };
struct Ints { __m512i v; };
struct Floats { __m512 v; };

// ---- moving
KBIT_INLINE Bytes load_bytes(const uint8_t *p) { return {_mm512_loadu_si512(p)}; }
KBIT_INLINE void store_bytes(uint8_t *p, Bytes b) { _mm512_storeu_si512(p, b.v); }
KBIT_INLINE Floats load_floats(const float *p) { return {_mm512_loadu_ps(p)}; }
KBIT_INLINE void store_floats(float *p, Floats f) { _mm512_storeu_ps(p, f.v); }
KBIT_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
KBIT_INLINE Floats load_some(const float *p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
KBIT_INLINE void store_some(float *p, Floats f, int n) { _mm512_mask_storeu_ps(p, first(n), f.v); }
KBIT_INLINE Ints broadcast(int32_t i) { return {_mm512_set1_epi32(i)}; }
KBIT_INLINE Floats broadcast(float f) { return {_mm512_set1_ps(f)}; }

// ---- bytes
template <int SHIFT, int WIDTH, int TO>
KBIT_INLINE Bytes field(Bytes b) {
  if constexpr (WIDTH == 8) return b;
  const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << WIDTH) - 1) << TO));
  __m512i moved = b.v;
  if constexpr (SHIFT > TO) moved = _mm512_srli_epi16(moved, SHIFT - TO);
  if constexpr (SHIFT < TO) moved = _mm512_slli_epi16(moved, TO - SHIFT);
  return {_mm512_and_si512(moved, mask)};
}
KBIT_INLINE Bytes operator|(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
KBIT_INLINE Bytes widen(Bytes b) {
  if constexpr (kWideBias == 128) return b;
  return {_mm512_xor_si512(b.v, _mm512_set1_epi8(-128))};
}
KBIT_INLINE Bytes first_digit(Bytes b) {  // (3 * v) >> 8 is how many of 86 and 171 v reaches
  const __mmask64 one = _mm512_cmpge_epu8_mask(b.v, _mm512_set1_epi8(86)),
                  two = _mm512_cmpge_epu8_mask(b.v, _mm512_set1_epi8(-85));
  return {_mm512_mask_mov_epi8(_mm512_maskz_set1_epi8(one, 1), two, _mm512_set1_epi8(2))};
}
KBIT_INLINE Bytes triple(Bytes b) { return {_mm512_add_epi8(b.v, _mm512_add_epi8(b.v, b.v))}; }

template <int K>
struct Table {  // K <= 4: one table of 16, the same in each quarter
  __m512i v;
  explicit KBIT_INLINE Table(const uint8_t *wide) {
    alignas(16) uint8_t t[16];
    for (int i = 0; i < 16; ++i) t[i] = wide[i & ((1 << K) - 1)];
    v = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i *>(t)));
  }
  KBIT_INLINE Bytes operator()(Bytes c) const { return {_mm512_shuffle_epi8(v, c.v)}; }
};
#ifdef __AVX512VBMI__
KBIT_INLINE __m512i repeated(const uint8_t *p, int n) {  // n = 32 or 64 bytes
  return n == 64 ? _mm512_loadu_si512(p) : _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
template <>
struct Table<5> {
  __m512i v;
  explicit KBIT_INLINE Table(const uint8_t *wide) : v(repeated(wide, 32)) {}
  KBIT_INLINE Bytes operator()(Bytes c) const { return {_mm512_permutexvar_epi8(c.v, v)}; }
};
template <>
struct Table<6> {
  __m512i v;
  explicit KBIT_INLINE Table(const uint8_t *wide) : v(repeated(wide, 64)) {}
  KBIT_INLINE Bytes operator()(Bytes c) const { return {_mm512_permutexvar_epi8(c.v, v)}; }
};
template <>
struct Table<7> {
  __m512i low, high;
  explicit KBIT_INLINE Table(const uint8_t *wide) : low(repeated(wide, 64)), high(repeated(wide + 64, 64)) {}
  KBIT_INLINE Bytes operator()(Bytes c) const { return {_mm512_permutex2var_epi8(low, c.v, high)}; }
};
template <>
struct Table<8> {
  Table<7> low, high;
  explicit KBIT_INLINE Table(const uint8_t *wide) : low(wide), high(wide + 128) {}
  KBIT_INLINE Bytes operator()(Bytes c) const { return {_mm512_mask_mov_epi8(low(c).v, _mm512_movepi8_mask(c.v), high(c).v)}; }
};
#else
template <int K>
struct WideTable {  // tables of 16, one after another; the right one has the code's upper bits as its number
  static constexpr int kParts = 1 << (K - 4);
  __m512i v[kParts];
  explicit KBIT_INLINE WideTable(const uint8_t *wide) {
    for (int i = 0; i < kParts; ++i)
      v[i] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(wide + 16 * i)));
  }
  KBIT_INLINE Bytes operator()(Bytes c) const {
    const __m512i low = _mm512_and_si512(c.v, _mm512_set1_epi8(15));
    __m512i found = _mm512_shuffle_epi8(v[0], low);
    for (int i = 1; i < kParts; ++i)
      found =
          _mm512_mask_shuffle_epi8(found, _mm512_cmpge_epu8_mask(c.v, _mm512_set1_epi8(static_cast<char>(16 * i))), v[i], low);
    return {found};
  }
};
template <> struct Table<5> : WideTable<5> { using WideTable::WideTable; };
template <> struct Table<6> : WideTable<6> { using WideTable::WideTable; };
template <> struct Table<7> : WideTable<7> { using WideTable::WideTable; };
template <> struct Table<8> : WideTable<8> { using WideTable::WideTable; };
#endif

// ---- integer products
KBIT_INLINE __m512i four(const int8_t *x) {
  int32_t i;
  __builtin_memcpy(&i, x, 4);
  return _mm512_set1_epi32(i);
}
#ifdef __AVX512VNNI__
template <int BITS>
KBIT_INLINE Ints dot(Ints acc, Bytes w, const int8_t *x) {
  return {_mm512_dpbusd_epi32(acc.v, w.v, four(x))};
}
template <int BITS, class Get>
KBIT_INLINE Ints dot8(Ints acc, Get get, const int8_t *x) {
  each<8>([&](auto g) KBIT_LAMBDA { acc = dot<BITS>(acc, get(g), x + 4 * g); });
  return acc;
}
#else
template <int BITS>
KBIT_INLINE __m512i pairs(Bytes w, const int8_t *x) {  // int16 sums of two products: at most 2 * 127 * 127, or 2 * 128 * 127
  if constexpr (BITS < 8) return _mm512_maddubs_epi16(w.v, four(x));
  const __m512i t = four(x), negated = _mm512_mask_sub_epi8(t, _mm512_movepi8_mask(w.v), _mm512_setzero_si512(), t);
  return _mm512_maddubs_epi16(_mm512_abs_epi8(w.v), negated);
}
KBIT_INLINE Ints add_pairs(Ints acc, __m512i p) { return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(p, _mm512_set1_epi16(1)))}; }
template <int BITS>
KBIT_INLINE Ints dot(Ints acc, Bytes w, const int8_t *x) {
  return add_pairs(acc, pairs<BITS>(w, x));
}
template <int BITS, class Get>
KBIT_INLINE Ints dot8(Ints acc, Get get, const int8_t *x) {
  // as many groups as int16 can add: 8 * 2 * 15 * 127 and 2 * 2 * 63 * 127 fit
  constexpr int kTogether = BITS <= 4 ? 8 : BITS <= 6 ? 2 : 1;
  __m512i p = _mm512_setzero_si512();
  each<8>([&](auto g) KBIT_LAMBDA {
    const __m512i next = pairs<BITS>(get(g), x + 4 * g);
    p = g % kTogether ? _mm512_add_epi16(p, next) : next;
    if (g % kTogether == kTogether - 1) acc = add_pairs(acc, p);
  });
  return acc;
}
#endif

// ---- integers
KBIT_INLINE Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
KBIT_INLINE Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
KBIT_INLINE Ints operator*(Ints a, Ints b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
KBIT_INLINE Ints over_256(Ints a) { return {_mm512_srai_epi32(a.v, 8)}; }
KBIT_INLINE Ints times_256(Ints a) { return {_mm512_slli_epi32(a.v, 8)}; }
KBIT_INLINE Ints max(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }
KBIT_INLINE __m256i upper(__m512i v) { return _mm512_maskz_extracti64x4_epi64(0xff, v, 1); }  // the plain word warns in gcc 12
KBIT_INLINE int32_t largest(Ints a) {
  const __m256i m = _mm256_max_epi32(_mm512_castsi512_si256(a.v), upper(a.v));
  __m128i n = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  n = _mm_max_epi32(n, _mm_shuffle_epi32(n, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(n, _mm_shuffle_epi32(n, 0xb1)));
}
KBIT_INLINE int32_t sum(Ints a) {
  const __m256i m = _mm256_add_epi32(_mm512_castsi512_si256(a.v), upper(a.v));
  __m128i n = _mm_add_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  n = _mm_add_epi32(n, _mm_shuffle_epi32(n, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(n, _mm_shuffle_epi32(n, 0xb1)));
}
KBIT_INLINE Ints magnitude_bits(Floats f) { return {_mm512_and_si512(_mm512_castps_si512(f.v), _mm512_set1_epi32(0x7fffffff))}; }
KBIT_INLINE Ints nearest(Floats f) { return {_mm512_cvt_roundps_epi32(f.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
KBIT_INLINE void store_int8(int8_t *p, Ints v) { _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(v.v)); }
KBIT_INLINE Ints load_planes(const uint8_t *p, int k) {
  __m512i v = _mm512_setzero_si512();
  for (int plane = 0; plane < k; ++plane) {
    uint16_t bits;
    __builtin_memcpy(&bits, p + 2 * plane, 2);
    v = _mm512_or_si512(v, _mm512_maskz_set1_epi32(bits, 1 << plane));
  }
  return {v};
}
template <int COL>
KBIT_INLINE Ints column(Bytes b) {
  if constexpr (COL == 3) return {_mm512_srli_epi32(b.v, 24)};
  return {_mm512_and_si512(_mm512_srli_epi32(b.v, 8 * COL), _mm512_set1_epi32(255))};
}

// ---- floats
KBIT_INLINE Floats to_floats(Ints v) { return {_mm512_cvtepi32_ps(v.v)}; }
KBIT_INLINE Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
KBIT_INLINE Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
KBIT_INLINE Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
KBIT_INLINE Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
KBIT_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
KBIT_INLINE Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
KBIT_INLINE __m256 upper(__m512 v) { return _mm256_castsi256_ps(upper(_mm512_castps_si512(v))); }
KBIT_INLINE float sum(Floats f) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(f.v), upper(f.v));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
KBIT_INLINE float largest(Floats f) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(f.v), upper(f.v));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
KBIT_INLINE Floats power_of_two(Ints n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
KBIT_INLINE Floats load_halves(const uint16_t *p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
}
KBIT_INLINE __m128i sixteen(const uint8_t *p) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)); }
KBIT_INLINE Floats load_uint8(const uint8_t *p) { return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(sixteen(p)))}; }
KBIT_INLINE Floats load_e8m0(const uint8_t *p) {
  const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(sixteen(p)), 23);
  return {_mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(0x00400000)))};
}
KBIT_INLINE Floats load_e4m3(const uint8_t *p) {
  const __m256i halves = _mm256_slli_epi16(_mm256_and_si256(_mm256_cvtepu8_epi16(sixteen(p)), _mm256_set1_epi16(0x7f)), 7);
  return {_mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0f))};
}

template <int K>
struct FloatTable {  // tables of 32, one after another; the right one has the code's upper bits as its number
  static constexpr int kParts = 1 << (K - 5);
  const float *at;
  explicit KBIT_INLINE FloatTable(const float *levels) : at(levels) {}
  template <int COL>
  KBIT_INLINE Floats get(Bytes codes) const {
    return {look<0, kParts>(_mm512_srli_epi32(codes.v, 8 * COL))};
  }

 private:
  template <int FROM, int COUNT>
  KBIT_INLINE __m512 look(__m512i codes) const {
    if constexpr (COUNT == 1) {
      return _mm512_permutex2var_ps(_mm512_loadu_ps(at + 32 * FROM), codes, _mm512_loadu_ps(at + 32 * FROM + 16));
    } else {
      constexpr int kBit = COUNT == 2 ? 5 : COUNT == 4 ? 6 : 7;
      const __mmask16 upper = _mm512_test_epi32_mask(codes, _mm512_set1_epi32(1 << kBit));
      return _mm512_mask_mov_ps(look<FROM, COUNT / 2>(codes), upper, look<FROM + COUNT / 2, COUNT / 2>(codes));
    }
  }
};
template <int K>
struct SmallFloatTable {  // K <= 4; vpermps looks at the lowest four bits alone
  __m512 v;
  explicit KBIT_INLINE SmallFloatTable(const float *levels) {
    alignas(64) float t[16];
    for (int i = 0; i < 16; ++i) t[i] = levels[i & ((1 << K) - 1)];
    v = _mm512_load_ps(t);
  }
  template <int COL>
  KBIT_INLINE Floats get(Bytes codes) const {
    return {_mm512_permutexvar_ps(_mm512_srli_epi32(codes.v, 8 * COL), v)};
  }
};
template <> struct FloatTable<1> : SmallFloatTable<1> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<2> : SmallFloatTable<2> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<3> : SmallFloatTable<3> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<4> : SmallFloatTable<4> { using SmallFloatTable::SmallFloatTable; };
}  // namespace LANES
}  // namespace kbit
