// What integer operators need beside the words of lanes_avx2.h. Meanings: wide_scalar.h.
#pragma once

namespace kbit {
namespace LANES {

struct Longs { __m256i v[4]; };  // of the even rows of the first register, of its odd ones, and the same of the second

// ---- integers of 32 bits
KBIT_INLINE Ints load_ints(const int32_t *p) { return {{load256(p), load256(p + 8)}}; }
KBIT_INLINE Ints load_ints(const int16_t *p) {
  return {{_mm256_cvtepi16_epi32(load128(p)), _mm256_cvtepi16_epi32(load128(p + 8))}};
}
KBIT_INLINE Ints load_ints(const int8_t *p) {
  const __m128i b = load128(p);
  return {{_mm256_cvtepi8_epi32(b), _mm256_cvtepi8_epi32(_mm_srli_si128(b, 8))}};
}
KBIT_INLINE Ints load_ints(const uint8_t *p) { return bytes_as_ints(p); }
KBIT_INLINE void store_ints(int32_t *p, Ints v) { store256(p, v.v[0]), store256(p + 8, v.v[1]); }
KBIT_INLINE void store_ints(int16_t *p, Ints v) {
  store256(p, _mm256_permute4x64_epi64(_mm256_packs_epi32(v.v[0], v.v[1]), 0xd8));
}
KBIT_BOTH(Ints, operator&, _mm256_and_si256)
KBIT_BOTH(Ints, min, _mm256_min_epi32)
KBIT_BOTH(Ints, shift_right, _mm256_srav_epi32)
KBIT_INLINE Ints shift_left(Ints a, int by) {
  const __m128i count = _mm_cvtsi32_si128(by);
  return {{_mm256_sll_epi32(a.v[0], count), _mm256_sll_epi32(a.v[1], count)}};
}
KBIT_INLINE Ints shift_right(Ints a, int by) {
  const __m128i count = _mm_cvtsi32_si128(by);
  return {{_mm256_sra_epi32(a.v[0], count), _mm256_sra_epi32(a.v[1], count)}};
}
template <int APART>
KBIT_INLINE Ints swapped(Ints a) {
  if constexpr (APART == 8) return {{a.v[1], a.v[0]}};
  else if constexpr (APART == 4) return {{_mm256_permute4x64_epi64(a.v[0], 0x4e), _mm256_permute4x64_epi64(a.v[1], 0x4e)}};
  else return {{_mm256_shuffle_epi32(a.v[0], APART == 1 ? 0xb1 : 0x4e), _mm256_shuffle_epi32(a.v[1], APART == 1 ? 0xb1 : 0x4e)}};
}
KBIT_INLINE Ints lookup(const int32_t *table, Ints at) {
  return {{_mm256_i32gather_epi32(table, at.v[0], 4), _mm256_i32gather_epi32(table, at.v[1], 4)}};
}

// ---- integers of 64 bits
#define KBIT_LONGS(name, word)                                                                         \
  KBIT_INLINE Longs name(Longs a, Longs b) {                                                           \
    return {{word(a.v[0], b.v[0]), word(a.v[1], b.v[1]), word(a.v[2], b.v[2]), word(a.v[3], b.v[3])}}; \
  }
KBIT_LONGS(operator+, _mm256_add_epi64)
KBIT_LONGS(operator-, _mm256_sub_epi64)
KBIT_LONGS(operator|, _mm256_or_si256)
KBIT_INLINE Longs broadcast_long(int64_t i) {
  const __m256i v = _mm256_set1_epi64x(i);
  return {{v, v, v, v}};
}
KBIT_INLINE __m256i odd(__m256i v) { return _mm256_srli_epi64(v, 32); }
KBIT_INLINE Longs multiply(Ints a, Ints b) {
  return {{_mm256_mul_epi32(a.v[0], b.v[0]), _mm256_mul_epi32(odd(a.v[0]), odd(b.v[0])), _mm256_mul_epi32(a.v[1], b.v[1]),
           _mm256_mul_epi32(odd(a.v[1]), odd(b.v[1]))}};
}
// There is no arithmetic shift of 64 bits: x + 2^63 is shifted as an unsigned number, and 2^63 shifted alike taken off.
KBIT_INLINE __m256i rounded(__m256i x, __m256i shift) {
  const __m256i one = _mm256_set1_epi64x(1), sign = _mm256_set1_epi64x(INT64_MIN);
  const __m256i rest = _mm256_sub_epi64(_mm256_sllv_epi64(one, shift), one);
  const __m256i to_even = _mm256_and_si256(_mm256_and_si256(_mm256_srlv_epi64(x, shift), rest), one);
  x = _mm256_xor_si256(_mm256_add_epi64(x, _mm256_add_epi64(_mm256_srli_epi64(rest, 1), to_even)), sign);
  x = _mm256_sub_epi64(_mm256_srlv_epi64(x, shift), _mm256_srlv_epi64(sign, shift));
  const __m256i most = _mm256_set1_epi64x(INT32_MAX), least = _mm256_set1_epi64x(INT32_MIN);
  x = _mm256_blendv_epi8(x, most, _mm256_cmpgt_epi64(x, most));
  return _mm256_blendv_epi8(x, least, _mm256_cmpgt_epi64(least, x));
}
KBIT_INLINE __m256i rounded(__m256i even, __m256i odds, __m256i shift) {
  even = rounded(even, _mm256_and_si256(shift, _mm256_set1_epi64x(63)));
  return _mm256_blend_epi32(even, _mm256_slli_epi64(rounded(odds, odd(shift)), 32), 0xaa);
}
KBIT_INLINE Ints rounded(Longs x, Ints shift) {
  return {{rounded(x.v[0], x.v[1], shift.v[0]), rounded(x.v[2], x.v[3], shift.v[1])}};
}
KBIT_INLINE int64_t sum(Longs a) {
  const __m256i four = _mm256_add_epi64(_mm256_add_epi64(a.v[0], a.v[1]), _mm256_add_epi64(a.v[2], a.v[3]));
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
}
KBIT_INLINE int64_t any_bits(Longs a) {
  const __m256i four = _mm256_or_si256(_mm256_or_si256(a.v[0], a.v[1]), _mm256_or_si256(a.v[2], a.v[3]));
  const __m128i two = _mm_or_si128(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return _mm_cvtsi128_si64(two) | _mm_extract_epi64(two, 1);
}
KBIT_INLINE void store_longs(int64_t *p, Longs a) {
  for (int i = 0; i < 2; ++i, p += 8) {
    const __m256i low = _mm256_unpacklo_epi64(a.v[2 * i], a.v[2 * i + 1]),  // rows 0, 1, 4, 5
        high = _mm256_unpackhi_epi64(a.v[2 * i], a.v[2 * i + 1]);           // rows 2, 3, 6, 7
    store256(p, _mm256_permute2x128_si256(low, high, 0x20));
    store256(p + 4, _mm256_permute2x128_si256(low, high, 0x31));
  }
}

}  // namespace LANES
}  // namespace kbit
