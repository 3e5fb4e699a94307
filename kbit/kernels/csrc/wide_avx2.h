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
KBIT_INLINE void store_digits(int8_t *p, Ints v) {
  const __m256i half = _mm256_set1_epi32(0x808080);  // from each byte but the last 128 is borrowed: what is left has a sign
  const __m256i sides = _mm256_broadcastsi128_si256(_mm_setr_epi32(0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703));
  for (int i = 0; i < 2; ++i)
    store256(p + 32 * i, _mm256_shuffle_epi8(_mm256_xor_si256(_mm256_add_epi32(v.v[i], half), half), sides));
}
// The digit's size meets the byte with the digit's sign: int16 holds 2 * 128 * 127.
KBIT_INLINE Ints dot_digits(Ints acc, Bytes b, const int8_t *digits) {
  const __m256i t = four(digits), size = _mm256_abs_epi8(t);
  for (int i = 0; i < 2; ++i) acc.v[i] = add_pairs(acc.v[i], _mm256_maddubs_epi16(size, _mm256_sign_epi8(b.v[i], t)));
  return acc;
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
KBIT_INLINE Longs lookup(const int64_t *table, Ints at) {  // `at` is not negative
  const auto *from = reinterpret_cast<const long long *>(table);
  const __m256i even = _mm256_set1_epi64x(0xffffffff);
  return {{_mm256_i64gather_epi64(from, _mm256_and_si256(at.v[0], even), 8), _mm256_i64gather_epi64(from, odd(at.v[0]), 8),
           _mm256_i64gather_epi64(from, _mm256_and_si256(at.v[1], even), 8), _mm256_i64gather_epi64(from, odd(at.v[1]), 8)}};
}
KBIT_INLINE __m256i low(__m256i even, __m256i odds) { return _mm256_blend_epi32(even, _mm256_slli_epi64(odds, 32), 0xaa); }
KBIT_INLINE Ints low(Longs a) { return {{low(a.v[0], a.v[1]), low(a.v[2], a.v[3])}}; }
KBIT_INLINE Ints high(Longs a) {
  return {{_mm256_blend_epi32(odd(a.v[0]), a.v[1], 0xaa), _mm256_blend_epi32(odd(a.v[2]), a.v[3], 0xaa)}};
}
KBIT_INLINE Longs times(Longs a, int32_t n) {
  const __m256i by = _mm256_set1_epi64x(n);
  for (__m256i &v : a.v) v = _mm256_add_epi64(_mm256_mul_epu32(v, by), _mm256_slli_epi64(_mm256_mul_epu32(odd(v), by), 32));
  return a;
}
KBIT_INLINE Longs magnitude(Longs a) {
  for (__m256i &v : a.v) {
    const __m256i sign = _mm256_cmpgt_epi64(_mm256_setzero_si256(), v);
    v = _mm256_sub_epi64(_mm256_xor_si256(v, sign), sign);
  }
  return a;
}
KBIT_INLINE Longs multiply(Ints a, Ints b) {
  return {{_mm256_mul_epi32(a.v[0], b.v[0]), _mm256_mul_epi32(odd(a.v[0]), odd(b.v[0])), _mm256_mul_epi32(a.v[1], b.v[1]),
           _mm256_mul_epi32(odd(a.v[1]), odd(b.v[1]))}};
}
// half: what is added, less 1 where the result is even; sign: 2^63 under the shift.
struct Rounding { __m256i shift[4], half[4], odd[4], sign[4]; };
KBIT_INLINE Rounding rounding(Ints shift) {
  const __m256i one = _mm256_set1_epi64x(1), small = _mm256_set1_epi64x(63), sign = _mm256_set1_epi64x(INT64_MIN);
  Rounding r = {
      {_mm256_and_si256(shift.v[0], small), odd(shift.v[0]), _mm256_and_si256(shift.v[1], small), odd(shift.v[1])}, {}, {}, {}};
  for (int i = 0; i < 4; ++i) {
    const __m256i rest = _mm256_sub_epi64(_mm256_sllv_epi64(one, r.shift[i]), one);
    r.half[i] = _mm256_srli_epi64(rest, 1), r.odd[i] = _mm256_and_si256(rest, one),
    r.sign[i] = _mm256_srlv_epi64(sign, r.shift[i]);
  }
  return r;
}
template <int I>
KBIT_INLINE __m256i nearly_shifted(Longs x, const Rounding &by) {
  const __m256i odd = _mm256_and_si256(_mm256_srlv_epi64(x.v[I], by.shift[I]), by.odd[I]);
  return _mm256_add_epi64(_mm256_add_epi64(x.v[I], by.half[I]), odd);
}
// There is no arithmetic shift of 64 bits: x + 2^63 is shifted as an unsigned number, and 2^63 shifted alike taken off.
template <int I>
KBIT_INLINE __m256i shifted(Longs x, const Rounding &by) {
  const __m256i most = _mm256_set1_epi64x(INT32_MAX), least = _mm256_set1_epi64x(INT32_MIN);
  __m256i y = _mm256_xor_si256(nearly_shifted<I>(x, by), _mm256_set1_epi64x(INT64_MIN));
  y = _mm256_sub_epi64(_mm256_srlv_epi64(y, by.shift[I]), by.sign[I]);
  y = _mm256_blendv_epi8(y, most, _mm256_cmpgt_epi64(y, most));
  return _mm256_blendv_epi8(y, least, _mm256_cmpgt_epi64(least, y));
}
KBIT_INLINE Ints rounded(Longs x, const Rounding &by) {
  return low(Longs{{shifted<0>(x, by), shifted<1>(x, by), shifted<2>(x, by), shifted<3>(x, by)}});
}
KBIT_INLINE Ints rounded_small(Longs x, const Rounding &by) {
  each<4>([&](auto i) KBIT_LAMBDA { x.v[i] = _mm256_srlv_epi64(nearly_shifted<i>(x, by), by.shift[i]); });
  return low(x);
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
