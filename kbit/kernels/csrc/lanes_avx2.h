// The vocabulary in AVX2, FMA and F16C: two registers to a word, rows 0 .. 7 and 8 .. 15. Meanings: lanes_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kbit {
namespace LANES {

constexpr int kTokens = 4;
constexpr int kTokensExact = 4;
constexpr int kTilesAtOnce = 2;
constexpr bool kUnrollsGroups = true;
constexpr bool kStepwise = false;
constexpr bool kNarrowIsFaster = true;
constexpr int kWideBias = 0;

struct Bytes { __m256i v[2]; };
struct Ints { __m256i v[2]; };
struct Floats { __m256 v[2]; };

// ---- moving
KBIT_INLINE __m256i load256(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
KBIT_INLINE void store256(void *p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(p), v); }
KBIT_INLINE Bytes load_bytes(const uint8_t *p) { return {{load256(p), load256(p + 32)}}; }
KBIT_INLINE void store_bytes(uint8_t *p, Bytes b) { store256(p, b.v[0]), store256(p + 32, b.v[1]); }
KBIT_INLINE Floats load_floats(const float *p) { return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }
KBIT_INLINE void store_floats(float *p, Floats f) { _mm256_storeu_ps(p, f.v[0]), _mm256_storeu_ps(p + 8, f.v[1]); }
KBIT_INLINE __m256i first(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
KBIT_INLINE Floats load_some(const float *p, int n) {
  return {{_mm256_maskload_ps(p, first(n)), n > 8 ? _mm256_maskload_ps(p + 8, first(n - 8)) : _mm256_setzero_ps()}};
}
KBIT_INLINE void store_some(float *p, Floats f, int n) {
  _mm256_maskstore_ps(p, first(n), f.v[0]);
  if (n > 8) _mm256_maskstore_ps(p + 8, first(n - 8), f.v[1]);
}
KBIT_INLINE Ints broadcast(int32_t i) { return {{_mm256_set1_epi32(i), _mm256_set1_epi32(i)}}; }
KBIT_INLINE Floats broadcast(float f) { return {{_mm256_set1_ps(f), _mm256_set1_ps(f)}}; }

// ---- bytes
template <int SHIFT, int WIDTH, int TO>
KBIT_INLINE Bytes field(Bytes b) {
  if constexpr (WIDTH == 8) return b;
  const __m256i mask = _mm256_set1_epi8(static_cast<char>(((1 << WIDTH) - 1) << TO));
  for (auto &v : b.v) {
    if constexpr (SHIFT > TO) v = _mm256_srli_epi16(v, SHIFT - TO);
    if constexpr (SHIFT < TO) v = _mm256_slli_epi16(v, TO - SHIFT);
    v = _mm256_and_si256(v, mask);
  }
  return b;
}
KBIT_INLINE Bytes operator|(Bytes a, Bytes b) { return {{_mm256_or_si256(a.v[0], b.v[0]), _mm256_or_si256(a.v[1], b.v[1])}}; }
KBIT_INLINE Bytes widen(Bytes b) {
  for (auto &v : b.v) v = _mm256_xor_si256(v, _mm256_set1_epi8(-128));
  return b;
}
KBIT_INLINE Bytes first_digit(Bytes b) {
  for (auto &v : b.v) {  // (3 * v) >> 8 is how many of 86 and 171 v reaches; a comparison gives -1
    const __m256i one = _mm256_cmpeq_epi8(_mm256_max_epu8(v, _mm256_set1_epi8(86)), v);
    const __m256i two = _mm256_cmpeq_epi8(_mm256_max_epu8(v, _mm256_set1_epi8(-85)), v);
    v = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two));
  }
  return b;
}
KBIT_INLINE Bytes triple(Bytes b) {
  for (auto &v : b.v) v = _mm256_add_epi8(v, _mm256_add_epi8(v, v));
  return b;
}

KBIT_INLINE __m256i twice(const uint8_t *p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
template <int K>
struct Table {  // tables of 16, one after another; the right one has the code's upper bits as its number
  static constexpr int kParts = K <= 4 ? 1 : 1 << (K - 4);
  __m256i part[kParts];
  explicit KBIT_INLINE Table(const uint8_t *wide) {
    uint8_t t[16 * kParts];
    for (int i = 0; i < 16 * kParts; ++i) t[i] = wide[i & ((1 << K) - 1)];
    for (int i = 0; i < kParts; ++i) part[i] = twice(t + 16 * i);
  }
  KBIT_INLINE Bytes operator()(Bytes c) const {
    if constexpr (kParts <= 4) return {{look<0, kParts>(c.v[0]), look<0, kParts>(c.v[1])}};
    else return {{called(c.v[0]), called(c.v[1])}};
  }

 private:
  // Eight tables or more fill the registers in any case: called, they compile in a fifth of the time.
  __attribute__((noinline)) __m256i called(__m256i codes) const { return look<0, kParts>(codes); }

  // Parts [FROM, FROM + COUNT): halves chosen by the code's bits from the top, each moved to its byte's sign.
  template <int FROM, int COUNT>
  KBIT_INLINE __m256i look(__m256i codes) const {
    if constexpr (COUNT == 1) {
      if constexpr (K <= 4) return _mm256_shuffle_epi8(part[FROM], codes);
      else return _mm256_shuffle_epi8(part[FROM], _mm256_and_si256(codes, _mm256_set1_epi8(15)));
    } else {
      constexpr int kBit = COUNT == 2 ? 4 : COUNT == 4 ? 5 : COUNT == 8 ? 6 : 7;
      const __m256i low = look<FROM, COUNT / 2>(codes), high = look<FROM + COUNT / 2, COUNT / 2>(codes);
      return _mm256_blendv_epi8(low, high, _mm256_slli_epi16(codes, 7 - kBit));
    }
  }
};

// ---- integer products
KBIT_INLINE __m256i four(const int8_t *x) {
  int32_t i;
  __builtin_memcpy(&i, x, 4);
  return _mm256_set1_epi32(i);
}
template <int BITS>
KBIT_INLINE __m256i pairs(__m256i w, __m256i x) {  // int16 sums of two products: at most 2 * 127 * 127, or 2 * 128 * 127
  if constexpr (BITS < 8) return _mm256_maddubs_epi16(w, x);
  else return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
KBIT_INLINE __m256i add_pairs(__m256i acc, __m256i p) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}
template <int BITS>
KBIT_INLINE Ints dot(Ints acc, Bytes w, const int8_t *x) {
  const __m256i t = four(x);
  for (int i = 0; i < 2; ++i) acc.v[i] = add_pairs(acc.v[i], pairs<BITS>(w.v[i], t));
  return acc;
}
template <int BITS, class Get>
KBIT_INLINE Ints dot8(Ints acc, Get get, const int8_t *x) {
  // as many groups as int16 can add: 8 * 2 * 15 * 127 and 2 * 2 * 63 * 127 fit
  constexpr int kTogether = BITS <= 4 ? 8 : BITS <= 6 ? 2 : 1;
  __m256i p[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  each<8>([&](auto g) KBIT_LAMBDA {
    const Bytes w = get(g);
    const __m256i t = four(x + 4 * g);
    for (int i = 0; i < 2; ++i) {
      const __m256i next = pairs<BITS>(w.v[i], t);
      p[i] = g % kTogether ? _mm256_add_epi16(p[i], next) : next;
      if (g % kTogether == kTogether - 1) acc.v[i] = add_pairs(acc.v[i], p[i]);
    }
  });
  return acc;
}

// ---- integers
#define KBIT_BOTH(type, name, word) \
  KBIT_INLINE type name(type a, type b) { return {{word(a.v[0], b.v[0]), word(a.v[1], b.v[1])}}; }
KBIT_BOTH(Ints, operator+, _mm256_add_epi32)
KBIT_BOTH(Ints, operator-, _mm256_sub_epi32)
KBIT_BOTH(Ints, operator*, _mm256_mullo_epi32)
KBIT_BOTH(Ints, max, _mm256_max_epi32)
KBIT_INLINE Ints over_256(Ints a) { return {{_mm256_srai_epi32(a.v[0], 8), _mm256_srai_epi32(a.v[1], 8)}}; }
KBIT_INLINE Ints times_256(Ints a) { return {{_mm256_slli_epi32(a.v[0], 8), _mm256_slli_epi32(a.v[1], 8)}}; }
KBIT_INLINE int32_t largest(Ints a) {
  const __m256i m = _mm256_max_epi32(a.v[0], a.v[1]);
  __m128i n = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  n = _mm_max_epi32(n, _mm_shuffle_epi32(n, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(n, _mm_shuffle_epi32(n, 0xb1)));
}
KBIT_INLINE int32_t sum(Ints a) {
  const __m256i m = _mm256_add_epi32(a.v[0], a.v[1]);
  __m128i n = _mm_add_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  n = _mm_add_epi32(n, _mm_shuffle_epi32(n, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(n, _mm_shuffle_epi32(n, 0xb1)));
}
KBIT_INLINE Ints magnitude_bits(Floats f) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  return {{_mm256_and_si256(_mm256_castps_si256(f.v[0]), mask), _mm256_and_si256(_mm256_castps_si256(f.v[1]), mask)}};
}
KBIT_INLINE __m256i nearest(__m256 f) {
  return _mm256_cvtps_epi32(_mm256_round_ps(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
KBIT_INLINE Ints nearest(Floats f) { return {{nearest(f.v[0]), nearest(f.v[1])}}; }
KBIT_INLINE void store_int8(int8_t *p, Ints v) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.v[0], v.v[1]), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), bytes);
}
KBIT_INLINE Ints load_planes(const uint8_t *p, int k) {
  const __m256i rows[2] = {_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128),
                           _mm256_setr_epi32(256, 512, 1024, 2048, 4096, 8192, 16384, 32768)};
  Ints v = broadcast(0);
  for (int plane = 0; plane < k; ++plane) {
    uint16_t bits;
    __builtin_memcpy(&bits, p + 2 * plane, 2);
    const __m256i all = _mm256_set1_epi32(bits), worth = _mm256_set1_epi32(1 << plane);
    for (int i = 0; i < 2; ++i) {
      const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(all, rows[i]), rows[i]);
      v.v[i] = _mm256_or_si256(v.v[i], _mm256_and_si256(set, worth));
    }
  }
  return v;
}
template <int COL>
KBIT_INLINE Ints column(Bytes b) {
  Ints c;
  for (int i = 0; i < 2; ++i) {
    if constexpr (COL == 3) c.v[i] = _mm256_srli_epi32(b.v[i], 24);
    else c.v[i] = _mm256_and_si256(_mm256_srli_epi32(b.v[i], 8 * COL), _mm256_set1_epi32(255));
  }
  return c;
}

// ---- floats
KBIT_BOTH(Floats, operator+, _mm256_add_ps)
KBIT_BOTH(Floats, operator-, _mm256_sub_ps)
KBIT_BOTH(Floats, operator*, _mm256_mul_ps)
KBIT_BOTH(Floats, operator/, _mm256_div_ps)
KBIT_INLINE Floats to_floats(Ints v) { return {{_mm256_cvtepi32_ps(v.v[0]), _mm256_cvtepi32_ps(v.v[1])}}; }
KBIT_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {{_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])}};
}
KBIT_BOTH(Floats, max, _mm256_max_ps)
KBIT_INLINE float sum(Floats f) {
  const __m256 eight = _mm256_add_ps(f.v[0], f.v[1]);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
KBIT_INLINE float largest(Floats f) {
  const __m256 eight = _mm256_max_ps(f.v[0], f.v[1]);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
KBIT_INLINE Floats power_of_two(Ints n) {
  Floats f;
  for (int i = 0; i < 2; ++i)
    f.v[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.v[i], _mm256_set1_epi32(127)), 23));
  return f;
}
KBIT_INLINE __m128i load128(const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }
KBIT_INLINE Floats load_halves(const uint16_t *p) { return {{_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8))}}; }
KBIT_INLINE Ints bytes_as_ints(const uint8_t *p) {
  const __m128i b = load128(p);
  return {{_mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_srli_si128(b, 8))}};
}
KBIT_INLINE Floats load_uint8(const uint8_t *p) { return to_floats(bytes_as_ints(p)); }
KBIT_INLINE Floats load_e8m0(const uint8_t *p) {
  Ints b = bytes_as_ints(p);
  for (auto &v : b.v) v = _mm256_max_epu32(_mm256_slli_epi32(v, 23), _mm256_set1_epi32(0x00400000));
  return {{_mm256_castsi256_ps(b.v[0]), _mm256_castsi256_ps(b.v[1])}};
}
KBIT_INLINE Floats load_e4m3(const uint8_t *p) {
  const __m256i halves = _mm256_slli_epi16(_mm256_and_si256(_mm256_cvtepu8_epi16(load128(p)), _mm256_set1_epi16(0x7f)), 7);
  const Floats f = {{_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))}};
  return f * broadcast(256.0f);
}

template <int K>
struct FloatTable {
  const float *at;
  explicit KBIT_INLINE FloatTable(const float *levels) : at(levels) {}
  template <int COL>
  KBIT_INLINE Floats get(Bytes codes) const {
    const Ints c = column<COL>(codes);
    return {{_mm256_i32gather_ps(at, c.v[0], 4), _mm256_i32gather_ps(at, c.v[1], 4)}};
  }
};
template <int K>
struct SmallFloatTable {  // K <= 4; vpermps looks at the lowest three bits alone, a blend at the sign, where the fourth is put
  __m256 low, high;
  explicit KBIT_INLINE SmallFloatTable(const float *levels) {
    float t[16];
    for (int i = 0; i < 16; ++i) t[i] = levels[i & ((1 << K) - 1)];
    low = _mm256_loadu_ps(t), high = _mm256_loadu_ps(t + 8);
  }
  template <int COL>
  KBIT_INLINE Floats get(Bytes codes) const {
    Floats f;
    for (int i = 0; i < 2; ++i) {
      const __m256i c = _mm256_srli_epi32(codes.v[i], 8 * COL);
      f.v[i] = _mm256_permutevar8x32_ps(low, c);
      if constexpr (K == 4)
        f.v[i] = _mm256_blendv_ps(f.v[i], _mm256_permutevar8x32_ps(high, c), _mm256_castsi256_ps(_mm256_slli_epi32(c, 28)));
    }
    return f;
  }
};
template <> struct FloatTable<1> : SmallFloatTable<1> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<2> : SmallFloatTable<2> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<3> : SmallFloatTable<3> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<4> : SmallFloatTable<4> { using SmallFloatTable::SmallFloatTable; };

}  // namespace LANES
}  // namespace kbit
