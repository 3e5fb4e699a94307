// The vocabulary in NEON: four registers to a word, four rows each. Meanings: lanes_scalar.h.
//
// With the dot product extension of Armv8.2 a word of bytes meets x in four sdot; without, products are added up in int16 first.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace kbit {
namespace LANES {

constexpr int kTokens = 4;
constexpr int kTokensExact = 4;
constexpr int kTilesAtOnce = 2;
constexpr bool kUnrollsGroups = false;
#ifdef __ARM_FEATURE_DOTPROD
constexpr bool kStepwise = true;
constexpr bool kNarrowIsFaster = false;
#else
constexpr bool kStepwise = false;
constexpr bool kNarrowIsFaster = true;
#endif
constexpr int kWideBias = 0;

struct Bytes { uint8x16_t v[4]; };
struct Ints { int32x4_t v[4]; };
struct Floats { float32x4_t v[4]; };

// f(0), f(1), f(2), f(3) as the registers of a word. Loops over them gcc leaves loops at -O2, with words in memory.
template <class Word, class F>
KBIT_INLINE Word four_of(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

// ---- moving
KBIT_INLINE Bytes load_bytes(const uint8_t *p) {
  return four_of<Bytes>([&](int i) KBIT_LAMBDA { return vld1q_u8(p + 16 * i); });
}
KBIT_INLINE void store_bytes(uint8_t *p, Bytes b) {
  each<4>([&](auto i) KBIT_LAMBDA { vst1q_u8(p + 16 * i, b.v[i]); });
}
KBIT_INLINE Floats load_floats(const float *p) {
  return four_of<Floats>([&](int i) KBIT_LAMBDA { return vld1q_f32(p + 4 * i); });
}
KBIT_INLINE void store_floats(float *p, Floats f) {
  each<4>([&](auto i) KBIT_LAMBDA { vst1q_f32(p + 4 * i, f.v[i]); });
}
KBIT_INLINE Floats load_some(const float *p, int n) {
  float all[16] = {};
  for (int i = 0; i < n; ++i) all[i] = p[i];
  return load_floats(all);
}
KBIT_INLINE void store_some(float *p, Floats f, int n) {
  float all[16];
  store_floats(all, f);
  for (int i = 0; i < n; ++i) p[i] = all[i];
}
KBIT_INLINE Ints broadcast(int32_t n) {
  return four_of<Ints>([&](int) KBIT_LAMBDA { return vdupq_n_s32(n); });
}
KBIT_INLINE Floats broadcast(float f) {
  return four_of<Floats>([&](int) KBIT_LAMBDA { return vdupq_n_f32(f); });
}

// ---- bytes
template <int SHIFT, int WIDTH, int TO>
KBIT_INLINE Bytes field(Bytes b) {
  if constexpr (WIDTH == 8) return b;
  constexpr bool kFalls = SHIFT > TO && SHIFT + WIDTH == 8 && TO == 0;  // a shift clears all other bits
  constexpr bool kRises = SHIFT < TO && TO + WIDTH == 8 && SHIFT == 0;
  const uint8x16_t mask = vdupq_n_u8(static_cast<uint8_t>(((1 << WIDTH) - 1) << TO));
  return four_of<Bytes>([&](int i) KBIT_LAMBDA {
    uint8x16_t v = b.v[i];
    if constexpr (SHIFT > TO) v = vshrq_n_u8(v, SHIFT - TO);
    if constexpr (SHIFT < TO) v = vshlq_n_u8(v, TO - SHIFT);
    if constexpr (!kFalls && !kRises) v = vandq_u8(v, mask);
    return v;
  });
}
KBIT_INLINE Bytes operator|(Bytes a, Bytes b) {
  return four_of<Bytes>([&](int i) KBIT_LAMBDA { return vorrq_u8(a.v[i], b.v[i]); });
}
KBIT_INLINE Bytes widen(Bytes b) {
  return four_of<Bytes>([&](int i) KBIT_LAMBDA { return veorq_u8(b.v[i], vdupq_n_u8(0x80)); });
}
KBIT_INLINE Bytes first_digit(Bytes b) {  // (3 * v) >> 8 is how many of 86 and 171 v reaches; a comparison gives 255
  return four_of<Bytes>([&](int i) KBIT_LAMBDA {
    const uint8x16_t one = vcgeq_u8(b.v[i], vdupq_n_u8(86)), two = vcgeq_u8(b.v[i], vdupq_n_u8(171));
    return vsraq_n_u8(vshrq_n_u8(one, 7), two, 7);
  });
}
KBIT_INLINE Bytes triple(Bytes b) {
  return four_of<Bytes>([&](int i) KBIT_LAMBDA { return vmulq_u8(b.v[i], vdupq_n_u8(3)); });
}

KBIT_INLINE uint8x16x2_t table_of_32(const uint8_t *p) { return {{vld1q_u8(p), vld1q_u8(p + 16)}}; }
KBIT_INLINE uint8x16x4_t table_of_64(const uint8_t *p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
template <int K>
struct Table {  // K <= 4
  uint8x16_t v;
  explicit KBIT_INLINE Table(const uint8_t *wide) {
    uint8_t t[16];
    for (int i = 0; i < 16; ++i) t[i] = wide[i & ((1 << K) - 1)];
    v = vld1q_u8(t);
  }
  KBIT_INLINE Bytes operator()(Bytes c) const {
    return four_of<Bytes>([&](int i) KBIT_LAMBDA { return vqtbl1q_u8(v, c.v[i]); });
  }
};
template <>
struct Table<5> {
  uint8x16x2_t v;
  explicit KBIT_INLINE Table(const uint8_t *wide) : v(table_of_32(wide)) {}
  KBIT_INLINE Bytes operator()(Bytes c) const {
    return four_of<Bytes>([&](int i) KBIT_LAMBDA { return vqtbl2q_u8(v, c.v[i]); });
  }
};
template <int K>
struct WideTable {  // tables of 64, one after another; each leaves what lies outside it as it was
  static constexpr int kParts = 1 << (K - 6);
  uint8x16x4_t v[kParts];
  explicit KBIT_INLINE WideTable(const uint8_t *wide) {
    each<kParts>([&](auto part) KBIT_LAMBDA { v[part] = table_of_64(wide + 64 * part); });
  }
  KBIT_INLINE Bytes operator()(Bytes c) const {
    if constexpr (kParts == 4) return called(c);
    else return look(c);
  }

 private:
  __attribute__((noinline)) Bytes called(Bytes c) const { return look(c); }  // half of all registers: the caller has none left
  KBIT_INLINE Bytes look(Bytes c) const {
    return four_of<Bytes>([&](int i) KBIT_LAMBDA {
      uint8x16_t found = vqtbl4q_u8(v[0], c.v[i]);
      each<kParts - 1>([&](auto j) KBIT_LAMBDA {
        constexpr int kPart = j + 1;
        found = vqtbx4q_u8(found, v[kPart], vsubq_u8(c.v[i], vdupq_n_u8(static_cast<uint8_t>(64 * kPart))));
      });
      return found;
    });
  }
};
template <> struct Table<6> : WideTable<6> { using WideTable::WideTable; };
template <> struct Table<7> : WideTable<7> { using WideTable::WideTable; };
template <> struct Table<8> : WideTable<8> { using WideTable::WideTable; };

// ---- integer products: bytes below 128 and wide bytes alike are signed
KBIT_INLINE int8x16_t four(const int8_t *x) {
  int32_t i;
  __builtin_memcpy(&i, x, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(i));
}
#ifdef __ARM_FEATURE_DOTPROD
template <int BITS>
KBIT_INLINE Ints dot(Ints acc, Bytes w, const int8_t *x) {
  const int8x16_t t = four(x);
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vdotq_s32(acc.v[i], vreinterpretq_s8_u8(w.v[i]), t); });
}
template <int BITS, class Get>
KBIT_INLINE Ints dot8(Ints acc, Get get, const int8_t *x) {
  const int8x16_t t[2] = {vld1q_s8(x), vld1q_s8(x + 16)};
  each<8>([&](auto g) KBIT_LAMBDA {
    const Bytes w = get(g);
    acc =
        four_of<Ints>([&](int i) KBIT_LAMBDA { return vdotq_laneq_s32(acc.v[i], vreinterpretq_s8_u8(w.v[i]), t[g / 4], g % 4); });
  });
  return acc;
}
#else
struct Products { int16x8_t low, high; };  // of 16 bytes, four of a row side by side
KBIT_INLINE Products products(uint8x16_t w, int8x16_t x) {
  const int8x16_t s = vreinterpretq_s8_u8(w);
  return {vmull_s8(vget_low_s8(s), vget_low_s8(x)), vmull_high_s8(s, x)};
}
KBIT_INLINE Products add_products(Products p, uint8x16_t w, int8x16_t x) {
  const int8x16_t s = vreinterpretq_s8_u8(w);
  return {vmlal_s8(p.low, vget_low_s8(s), vget_low_s8(x)), vmlal_high_s8(p.high, s, x)};
}
// Two neighbours fit int16: 2 * 128 * 127.
KBIT_INLINE int32x4_t add_rows(int32x4_t acc, Products p) { return vpadalq_s16(acc, vpaddq_s16(p.low, p.high)); }
template <int BITS>
KBIT_INLINE Ints dot(Ints acc, Bytes w, const int8_t *x) {
  const int8x16_t t = four(x);
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return add_rows(acc.v[i], products(w.v[i], t)); });
}
template <int BITS, class Get>
KBIT_INLINE Ints dot8(Ints acc, Get get, const int8_t *x) {
  // as many groups as int16 can add, two neighbours each: 8 * 2 * 15 * 127, 4 * 2 * 31 * 127 and 2 * 2 * 63 * 127 fit
  constexpr int kTogether = BITS <= 4 ? 8 : BITS == 5 ? 4 : BITS == 6 ? 2 : 1;
  Products p[4];
  each<8>([&](auto g) KBIT_LAMBDA {
    const Bytes w = get(g);
    const int8x16_t t = four(x + 4 * g);
    each<4>([&](auto i) KBIT_LAMBDA {
      if constexpr (g % kTogether == 0) p[i] = products(w.v[i], t);
      else p[i] = add_products(p[i], w.v[i], t);
      if constexpr (g % kTogether == kTogether - 1) acc.v[i] = add_rows(acc.v[i], p[i]);
    });
  });
  return acc;
}
#endif

// ---- integers
#define KBIT_FOUR(type, name, word)                                                \
  KBIT_INLINE type name(type a, type b) {                                          \
    return four_of<type>([&](int i) KBIT_LAMBDA { return word(a.v[i], b.v[i]); }); \
  }
KBIT_FOUR(Ints, operator+, vaddq_s32)
KBIT_FOUR(Ints, operator-, vsubq_s32)
KBIT_FOUR(Ints, operator*, vmulq_s32)
KBIT_FOUR(Ints, max, vmaxq_s32)
KBIT_INLINE Ints over_256(Ints a) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vshrq_n_s32(a.v[i], 8); });
}
KBIT_INLINE Ints times_256(Ints a) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vshlq_n_s32(a.v[i], 8); });
}
KBIT_INLINE int32_t largest(Ints a) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v[0], a.v[1]), vmaxq_s32(a.v[2], a.v[3]))); }
KBIT_INLINE int32_t sum(Ints a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3]))); }
KBIT_INLINE Ints magnitude_bits(Floats f) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vandq_s32(vreinterpretq_s32_f32(f.v[i]), vdupq_n_s32(0x7fffffff)); });
}
KBIT_INLINE Ints nearest(Floats f) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA { return vcvtnq_s32_f32(f.v[i]); });
}
KBIT_INLINE void store_int8(int8_t *p, Ints v) {
  const int16x8_t low = vcombine_s16(vmovn_s32(v.v[0]), vmovn_s32(v.v[1])),
                  high = vcombine_s16(vmovn_s32(v.v[2]), vmovn_s32(v.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
KBIT_INLINE Ints load_planes(const uint8_t *p, int k) {
  const int32x4_t rows = {1, 2, 4, 8};
  Ints v = broadcast(0);
  for (int plane = 0; plane < k; ++plane) {
    uint16_t bits;
    __builtin_memcpy(&bits, p + 2 * plane, 2);
    const uint32x4_t worth = vdupq_n_u32(1u << plane);
    v = four_of<Ints>([&](int i) KBIT_LAMBDA {
      const uint32x4_t set = vtstq_s32(vdupq_n_s32(bits >> (4 * i)), rows);
      return vorrq_s32(v.v[i], vreinterpretq_s32_u32(vandq_u32(set, worth)));
    });
  }
  return v;
}
template <int COL>
KBIT_INLINE Ints column(Bytes b) {
  return four_of<Ints>([&](int i) KBIT_LAMBDA {
    uint32x4_t v = vreinterpretq_u32_u8(b.v[i]);
    if constexpr (COL > 0) v = vshrq_n_u32(v, 8 * COL);
    if constexpr (COL < 3) v = vandq_u32(v, vdupq_n_u32(255));
    return vreinterpretq_s32_u32(v);
  });
}

// ---- floats
KBIT_FOUR(Floats, operator+, vaddq_f32)
KBIT_FOUR(Floats, operator-, vsubq_f32)
KBIT_FOUR(Floats, operator*, vmulq_f32)
KBIT_FOUR(Floats, operator/, vdivq_f32)
KBIT_INLINE Floats to_floats(Ints v) {
  return four_of<Floats>([&](int i) KBIT_LAMBDA { return vcvtq_f32_s32(v.v[i]); });
}
KBIT_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return four_of<Floats>([&](int i) KBIT_LAMBDA { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
KBIT_INLINE float32x4_t max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }  // vmaxq differs for NaN
KBIT_FOUR(Floats, max, max)
KBIT_INLINE float sum(Floats f) {
  const float32x4_t four = vaddq_f32(vaddq_f32(f.v[0], f.v[2]), vaddq_f32(f.v[1], f.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
KBIT_INLINE float largest(Floats f) {
  return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(f.v[0], f.v[1]), vmaxnmq_f32(f.v[2], f.v[3])));
}
KBIT_INLINE Floats power_of_two(Ints n) {
  return four_of<Floats>([&](int i)
                             KBIT_LAMBDA { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v[i], vdupq_n_s32(127)), 23)); });
}
KBIT_INLINE Floats halves_to_floats(uint16x8_t low, uint16x8_t high) {
  const float16x8_t l = vreinterpretq_f16_u16(low), h = vreinterpretq_f16_u16(high);
  return {{vcvt_f32_f16(vget_low_f16(l)), vcvt_high_f32_f16(l), vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)}};
}
KBIT_INLINE Floats load_halves(const uint16_t *p) { return halves_to_floats(vld1q_u16(p), vld1q_u16(p + 8)); }
KBIT_INLINE Ints bytes_as_ints(const uint8_t *p) {
  const uint8x16_t b = vld1q_u8(p);
  const uint16x8_t half[2] = {vmovl_u8(vget_low_u8(b)), vmovl_high_u8(b)};
  return four_of<Ints>([&](int i) KBIT_LAMBDA {
    return vreinterpretq_s32_u32(i % 2 ? vmovl_high_u16(half[i / 2]) : vmovl_u16(vget_low_u16(half[i / 2])));
  });
}
KBIT_INLINE Floats load_uint8(const uint8_t *p) { return to_floats(bytes_as_ints(p)); }
KBIT_INLINE Floats load_e8m0(const uint8_t *p) {
  const Ints b = bytes_as_ints(p);
  return four_of<Floats>([&](int i) KBIT_LAMBDA {
    return vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32(vreinterpretq_u32_s32(b.v[i]), 23), vdupq_n_u32(0x00400000)));
  });
}
KBIT_INLINE Floats load_e4m3(const uint8_t *p) {
  const uint8x16_t b = vandq_u8(vld1q_u8(p), vdupq_n_u8(0x7f));
  return halves_to_floats(vshll_n_u8(vget_low_u8(b), 7), vshll_high_n_u8(b, 7)) * broadcast(256.0f);
}

template <int K>
struct FloatTable {  // two rows to a general register, then one load a row
  const float *at;
  explicit KBIT_INLINE FloatTable(const float *levels) : at(levels) {}
  template <int COL>
  KBIT_INLINE Floats get(Bytes codes) const {
    return four_of<Floats>([&](int i) KBIT_LAMBDA {
      const uint64x2_t rows = vreinterpretq_u64_u8(codes.v[i]);
      const uint64_t low = vgetq_lane_u64(rows, 0), high = vgetq_lane_u64(rows, 1);
      float32x4_t v = vld1q_dup_f32(at + (low >> 8 * COL & 255));
      v = vld1q_lane_f32(at + (low >> (32 + 8 * COL) & 255), v, 1);
      v = vld1q_lane_f32(at + (high >> 8 * COL & 255), v, 2);
      return vld1q_lane_f32(at + (high >> (32 + 8 * COL) & 255), v, 3);
    });
  }
};
template <int K>
struct SmallFloatTable {  // K <= 4: at most 64 bytes, and code c is bytes 4c .. 4c + 3 of them
  uint8x16x4_t v;
  explicit KBIT_INLINE SmallFloatTable(const float *levels) {
    float t[16];
    for (int i = 0; i < 16; ++i) t[i] = levels[i & ((1 << K) - 1)];
    each<4>([&](auto i) KBIT_LAMBDA { v.val[i] = vreinterpretq_u8_f32(vld1q_f32(t + 4 * i)); });
  }
  template <int COL>
  KBIT_INLINE Floats get(Bytes codes) const {
    const uint8x16_t of_row = {COL,     COL,     COL,     COL,     COL + 4,  COL + 4,  COL + 4,  COL + 4,
                               COL + 8, COL + 8, COL + 8, COL + 8, COL + 12, COL + 12, COL + 12, COL + 12};
    const uint8x16_t byte = vreinterpretq_u8_u32(vdupq_n_u32(0x03020100));
    return four_of<Floats>([&](int i) KBIT_LAMBDA {
      const uint8x16_t at = vorrq_u8(vqtbl1q_u8(vshlq_n_u8(codes.v[i], 2), of_row), byte);
      if constexpr (K <= 2) return vreinterpretq_f32_u8(vqtbl1q_u8(v.val[0], at));
      else if constexpr (K == 3) return vreinterpretq_f32_u8(vqtbl2q_u8({{v.val[0], v.val[1]}}, at));
      else return vreinterpretq_f32_u8(vqtbl4q_u8(v, at));
    });
  }
};
template <> struct FloatTable<1> : SmallFloatTable<1> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<2> : SmallFloatTable<2> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<3> : SmallFloatTable<3> { using SmallFloatTable::SmallFloatTable; };
template <> struct FloatTable<4> : SmallFloatTable<4> { using SmallFloatTable::SmallFloatTable; };

}  // namespace LANES
}  // namespace kbit
