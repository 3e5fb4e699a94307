// What integer operators need beside the words of lanes_avx512.h. Meanings: wide_scalar.h.
#pragma once

namespace kbit {
namespace LANES {

struct Longs { __m512i v[2]; };  // of the even rows, of the odd ones: where multiplication reads and writes them

// ---- integers of 32 bits
KBIT_INLINE Ints load_ints(const int32_t *p) { return {_mm512_loadu_si512(p)}; }
KBIT_INLINE Ints load_ints(const int16_t *p) {
  return {_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
}
KBIT_INLINE Ints load_ints(const int8_t *p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))};
}
KBIT_INLINE Ints load_ints(const uint8_t *p) { return {_mm512_cvtepu8_epi32(sixteen(p))}; }
KBIT_INLINE void store_ints(int32_t *p, Ints v) { _mm512_storeu_si512(p, v.v); }
KBIT_INLINE void store_ints(int16_t *p, Ints v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtsepi32_epi16(v.v));
}
KBIT_INLINE Ints operator&(Ints a, Ints b) { return {_mm512_and_si512(a.v, b.v)}; }
KBIT_INLINE Ints min(Ints a, Ints b) { return {_mm512_min_epi32(a.v, b.v)}; }
KBIT_INLINE Ints shift_left(Ints a, int by) { return {_mm512_sll_epi32(a.v, _mm_cvtsi32_si128(by))}; }
KBIT_INLINE Ints shift_right(Ints a, int by) { return {_mm512_sra_epi32(a.v, _mm_cvtsi32_si128(by))}; }
KBIT_INLINE Ints shift_right(Ints a, Ints by) { return {_mm512_srav_epi32(a.v, by.v)}; }
template <int APART>
KBIT_INLINE Ints swapped(Ints a) {
  if constexpr (APART == 1) return {_mm512_shuffle_epi32(a.v, static_cast<_MM_PERM_ENUM>(0xb1))};
  else if constexpr (APART == 2) return {_mm512_shuffle_epi32(a.v, static_cast<_MM_PERM_ENUM>(0x4e))};
  else return {_mm512_shuffle_i32x4(a.v, a.v, APART == 4 ? 0xb1 : 0x4e)};
}
KBIT_INLINE void store_digits(int8_t *p, Ints v) {
  const __m512i half = _mm512_set1_epi32(0x808080);  // from each byte but the last 128 is borrowed: what is left has a sign
  const __m512i sides = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  _mm512_storeu_si512(p, _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_add_epi32(v.v, half), half), sides));
}
KBIT_INLINE Ints dot_digits(Ints acc, Bytes b, const int8_t *digits) {
#ifdef __AVX512VNNI__
  return dot<8>(acc, b, digits);
#else  // the digit's size meets the byte with the digit's sign: int16 holds 2 * 128 * 127
  const __m512i t = four(digits), turned = _mm512_mask_sub_epi8(b.v, _mm512_movepi8_mask(t), _mm512_setzero_si512(), b.v);
  return add_pairs(acc, _mm512_maddubs_epi16(_mm512_abs_epi8(t), turned));
#endif
}
KBIT_INLINE Ints lookup(const int32_t *table, Ints at) { return {_mm512_i32gather_epi32(at.v, table, 4)}; }

// ---- integers of 64 bits
KBIT_INLINE Longs broadcast_long(int64_t i) { return {{_mm512_set1_epi64(i), _mm512_set1_epi64(i)}}; }
KBIT_INLINE Longs operator+(Longs a, Longs b) { return {{_mm512_add_epi64(a.v[0], b.v[0]), _mm512_add_epi64(a.v[1], b.v[1])}}; }
KBIT_INLINE Longs operator-(Longs a, Longs b) { return {{_mm512_sub_epi64(a.v[0], b.v[0]), _mm512_sub_epi64(a.v[1], b.v[1])}}; }
KBIT_INLINE Longs operator|(Longs a, Longs b) { return {{_mm512_or_si512(a.v[0], b.v[0]), _mm512_or_si512(a.v[1], b.v[1])}}; }
KBIT_INLINE __m512i odd(Ints a) { return _mm512_srli_epi64(a.v, 32); }
KBIT_INLINE Longs lookup(const int64_t *table, Ints at) {  // `at` is not negative
  return {{_mm512_i64gather_epi64(_mm512_and_si512(at.v, _mm512_set1_epi64(0xffffffff)), table, 8),
           _mm512_i64gather_epi64(odd(at), table, 8)}};
}
KBIT_INLINE Ints low(Longs a) { return {_mm512_mask_blend_epi32(0xaaaa, a.v[0], _mm512_slli_epi64(a.v[1], 32))}; }
KBIT_INLINE Ints high(Longs a) { return {_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(a.v[0], 32), a.v[1])}; }
KBIT_INLINE Longs times(Longs a, int32_t n) {
  return {{_mm512_mullo_epi64(a.v[0], _mm512_set1_epi64(n)), _mm512_mullo_epi64(a.v[1], _mm512_set1_epi64(n))}};
}
KBIT_INLINE Longs magnitude(Longs a) { return {{_mm512_abs_epi64(a.v[0]), _mm512_abs_epi64(a.v[1])}}; }
KBIT_INLINE Longs multiply(Ints a, Ints b) { return {{_mm512_mul_epi32(a.v, b.v), _mm512_mul_epi32(odd(a), odd(b))}}; }
struct Rounding { __m512i shift[2], half[2], odd[2]; };  // half: what is added, less 1 where the result is even
KBIT_INLINE Rounding rounding(Ints shift) {
  const __m512i one = _mm512_set1_epi64(1);
  Rounding r = {{_mm512_and_si512(shift.v, _mm512_set1_epi64(63)), odd(shift)}, {}, {}};
  for (int i = 0; i < 2; ++i) {
    const __m512i rest = _mm512_sub_epi64(_mm512_sllv_epi64(one, r.shift[i]), one);
    r.half[i] = _mm512_srli_epi64(rest, 1), r.odd[i] = _mm512_and_si512(rest, one);
  }
  return r;
}
template <int I>
KBIT_INLINE __m512i shifted(Longs x, const Rounding &by) {
  const __m512i odd = _mm512_and_si512(_mm512_srlv_epi64(x.v[I], by.shift[I]), by.odd[I]);
  return _mm512_srav_epi64(_mm512_add_epi64(_mm512_add_epi64(x.v[I], by.half[I]), odd), by.shift[I]);
}
KBIT_INLINE __m512i saturated(__m512i x) {
  return _mm512_max_epi64(_mm512_min_epi64(x, _mm512_set1_epi64(INT32_MAX)), _mm512_set1_epi64(INT32_MIN));
}
KBIT_INLINE Ints rounded(Longs x, const Rounding &by) {
  return low(Longs{{saturated(shifted<0>(x, by)), saturated(shifted<1>(x, by))}});
}
KBIT_INLINE Ints rounded_small(Longs x, const Rounding &by) { return low(Longs{{shifted<0>(x, by), shifted<1>(x, by)}}); }
KBIT_INLINE int64_t sum(Longs a) { return _mm512_reduce_add_epi64(_mm512_add_epi64(a.v[0], a.v[1])); }
KBIT_INLINE int64_t any_bits(Longs a) { return _mm512_reduce_or_epi64(_mm512_or_si512(a.v[0], a.v[1])); }
KBIT_INLINE void store_longs(int64_t *p, Longs a) {
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  _mm512_storeu_si512(p, _mm512_permutex2var_epi64(a.v[0], low, a.v[1]));
  _mm512_storeu_si512(p + 8, _mm512_permutex2var_epi64(a.v[0], high, a.v[1]));
}

}  // namespace LANES
}  // namespace kbit
