// What integer operators need beside the words of lanes_neon.h. Meanings: wide_scalar.h.
#pragma once

namespace kbit {
namespace LANES {

struct Longs { int64x2_t v[8]; };

template <class F>
KBIT_INLINE Longs eight_of(F f) {
  return {{f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)}};
}

// ---- integers of 32 bits
KBIT_INLINE Ints load_ints(const int32_t *p) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vld1q_s32(p + 4 * i); });
}
KBIT_INLINE Ints load_ints(const int16_t *p) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vmovl_s16(vld1_s16(p + 4 * i)); });
}
KBIT_INLINE Ints load_ints(const int8_t *p) {
  const int8x16_t b = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(b)), high = vmovl_high_s8(b);
  return {{vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)}};
}
KBIT_INLINE Ints load_ints(const uint8_t *p) { return bytes_as_ints(p); }
KBIT_INLINE void store_ints(int32_t *p, Ints v) {
  each<4>([&](auto i) KBIT_LAMBDA { vst1q_s32(p + 4 * i, v.v[i]); });
}
KBIT_INLINE void store_ints(int16_t *p, Ints v) {
  each<4>([&](auto i) KBIT_LAMBDA { vst1_s16(p + 4 * i, vqmovn_s32(v.v[i])); });
}
KBIT_FOUR(Ints, operator&, vandq_s32)
KBIT_FOUR(Ints, min, vminq_s32)
KBIT_INLINE Ints shift_left(Ints a, int by) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vshlq_s32(a.v[i], vdupq_n_s32(by)); });
}
KBIT_INLINE Ints shift_right(Ints a, int by) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vshlq_s32(a.v[i], vdupq_n_s32(-by)); });
}
KBIT_INLINE Ints shift_right(Ints a, Ints by) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vshlq_s32(a.v[i], vnegq_s32(by.v[i])); });
}
template <int APART>
KBIT_INLINE Ints swapped(Ints a) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA {
    if constexpr (APART == 1) return vrev64q_s32(a.v[i]);
    else if constexpr (APART == 2) return vextq_s32(a.v[i], a.v[i], 2);
    else return a.v[i ^ (APART / 4)];
  });
}
KBIT_INLINE void store_digits(int8_t *p, Ints v) {
  const int32x4_t half = vdupq_n_s32(0x808080);  // from each byte but the last 128 is borrowed: what is left has a sign
  const uint8x16_t sides = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  each<4>([&](auto i) KBIT_LAMBDA {
    vst1q_s8(p + 16 * i, vqtbl1q_s8(vreinterpretq_s8_s32(veorq_s32(vaddq_s32(v.v[i], half), half)), sides));
  });
}
KBIT_INLINE Ints dot_digits(Ints acc, Bytes b, const int8_t *digits) { return dot<8>(acc, b, digits); }  // 2 * 127 * 128 fit
KBIT_INLINE Ints lookup(const int32_t *table, Ints at) {
  int32_t all[16];
  store_ints(all, at);
  for (int32_t &v : all) v = table[v];
  return load_ints(all);
}

// ---- integers of 64 bits
#define KBIT_EIGHT(name, word)                                                \
  KBIT_INLINE Longs name(Longs a, Longs b) {                                  \
    return eight_of([&](int i) KBIT_LAMBDA { return word(a.v[i], b.v[i]); }); \
  }
KBIT_EIGHT(operator+, vaddq_s64)
KBIT_EIGHT(operator-, vsubq_s64)
KBIT_EIGHT(operator|, vorrq_s64)
KBIT_INLINE Longs broadcast_long(int64_t n) {
  return eight_of([&](int) KBIT_LAMBDA { return vdupq_n_s64(n); });
}
KBIT_INLINE Longs lookup(const int64_t *table, Ints at) {
  int32_t all[16];
  store_ints(all, at);
  return eight_of([&](int i)
                      KBIT_LAMBDA { return vcombine_s64(vld1_s64(table + all[2 * i]), vld1_s64(table + all[2 * i + 1])); });
}
KBIT_INLINE Ints low(Longs a) {
  return four_of<Ints>(
      [&](int i) KBIT_LAMBDA { return vuzp1q_s32(vreinterpretq_s32_s64(a.v[2 * i]), vreinterpretq_s32_s64(a.v[2 * i + 1])); });
}
KBIT_INLINE Ints high(Longs a) {
  return four_of<Ints>(
      [&](int i) KBIT_LAMBDA { return vuzp2q_s32(vreinterpretq_s32_s64(a.v[2 * i]), vreinterpretq_s32_s64(a.v[2 * i + 1])); });
}
KBIT_INLINE Longs times(Longs a, int32_t n) {
  const uint32x2_t by = vdup_n_u32(static_cast<uint32_t>(n));
  return eight_of([&](int i) KBIT_LAMBDA {
    const uint64x2_t x = vreinterpretq_u64_s64(a.v[i]);
    const uint64x2_t upper = vshlq_n_u64(vmull_u32(vshrn_n_u64(x, 32), by), 32);
    return vreinterpretq_s64_u64(vmlal_u32(upper, vmovn_u64(x), by));
  });
}
KBIT_INLINE Longs magnitude(Longs a) {
  return eight_of([&](int i) KBIT_LAMBDA { return vabsq_s64(a.v[i]); });
}
KBIT_INLINE Longs multiply(Ints a, Ints b) {
  return eight_of([&](int i) KBIT_LAMBDA {
    return i % 2 ? vmull_high_s32(a.v[i / 2], b.v[i / 2]) : vmull_s32(vget_low_s32(a.v[i / 2]), vget_low_s32(b.v[i / 2]));
  });
}
struct Rounding { Longs right, half, odd; };  // half: what is added, less 1 where the result is even
KBIT_INLINE Rounding rounding(Ints shift) {
  const int64x2_t one = vdupq_n_s64(1);
  const Longs left = eight_of(
      [&](int i) KBIT_LAMBDA { return vmovl_s32(i % 2 ? vget_high_s32(shift.v[i / 2]) : vget_low_s32(shift.v[i / 2])); });
  const Longs rest = eight_of([&](int i) KBIT_LAMBDA { return vsubq_s64(vshlq_s64(one, left.v[i]), one); });
  return {eight_of([&](int i) KBIT_LAMBDA { return vnegq_s64(left.v[i]); }),
          eight_of([&](int i) KBIT_LAMBDA { return vshrq_n_s64(rest.v[i], 1); }),
          eight_of([&](int i) KBIT_LAMBDA { return vandq_s64(rest.v[i], one); })};
}
KBIT_INLINE Ints rounded(Longs x, const Rounding &by) {
  const auto two = [&](int i) KBIT_LAMBDA {
    const int64x2_t odd = vandq_s64(vshlq_s64(x.v[i], by.right.v[i]), by.odd.v[i]);
    return vqmovn_s64(vshlq_s64(vaddq_s64(vaddq_s64(x.v[i], by.half.v[i]), odd), by.right.v[i]));
  };
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vcombine_s32(two(2 * i), two(2 * i + 1)); });
}
KBIT_INLINE Ints rounded_small(Longs x, const Rounding &by) { return rounded(x, by); }
KBIT_INLINE int64_t sum(Longs a) {
  each<7>([&](auto i) KBIT_LAMBDA { a.v[0] = vaddq_s64(a.v[0], a.v[i + 1]); });
  return vaddvq_s64(a.v[0]);
}
KBIT_INLINE int64_t any_bits(Longs a) {
  each<7>([&](auto i) KBIT_LAMBDA { a.v[0] = vorrq_s64(a.v[0], a.v[i + 1]); });
  return vgetq_lane_s64(a.v[0], 0) | vgetq_lane_s64(a.v[0], 1);
}
KBIT_INLINE void store_longs(int64_t *p, Longs a) {
  each<8>([&](auto i) KBIT_LAMBDA { vst1q_s64(p + 2 * i, a.v[i]); });
}

}  // namespace LANES
}  // namespace kbit
