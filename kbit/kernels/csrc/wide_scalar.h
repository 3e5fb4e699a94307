// What integer operators need beside the words of lanes_scalar.h, in plain C++: integers of 64 bits, and shifts that round half
// to even. Every wide_<isa>.h supplies the same; this is the reference of what each word means.
#pragma once

namespace kbit {
namespace LANES {

struct Longs { int64_t at[16]; };  // in the order of the rows; elsewhere in any order

// ---- integers of 32 bits
template <class T>
KBIT_WORD Ints load_each(const T *p) {
  Ints v;
  for (int i = 0; i < 16; ++i) v.at[i] = p[i];
  return v;
}
KBIT_WORD Ints load_ints(const int32_t *p) { return load_each(p); }
KBIT_WORD Ints load_ints(const int16_t *p) { return load_each(p); }
KBIT_WORD Ints load_ints(const int8_t *p) { return load_each(p); }
KBIT_WORD Ints load_ints(const uint8_t *p) { return load_each(p); }
KBIT_WORD void store_ints(int32_t *p, Ints v) { std::memcpy(p, v.at, 64); }
KBIT_WORD void store_ints(int16_t *p, Ints v) {  // saturated
  for (int i = 0; i < 16; ++i)
    p[i] = static_cast<int16_t>(v.at[i] < INT16_MIN ? INT16_MIN : v.at[i] > INT16_MAX ? INT16_MAX : v.at[i]);
}
KBIT_WORD Ints operator&(Ints a, Ints b) {
  for (int i = 0; i < 16; ++i) a.at[i] &= b.at[i];
  return a;
}
KBIT_WORD Ints min(Ints a, Ints b) {
  for (int i = 0; i < 16; ++i) a.at[i] = a.at[i] < b.at[i] ? a.at[i] : b.at[i];
  return a;
}
KBIT_WORD Ints shift_left(Ints a, int by) {  // by 0 .. 31; what leaves is lost
  for (auto &v : a.at) v = static_cast<int32_t>(static_cast<uint32_t>(v) << by);
  return a;
}
KBIT_WORD Ints shift_right(Ints a, int by) {  // by 0 .. 31, rounding down
  for (auto &v : a.at) v >>= by;
  return a;
}
KBIT_WORD Ints shift_right(Ints a, Ints by) {
  for (int i = 0; i < 16; ++i) a.at[i] >>= by.at[i];
  return a;
}
// Of each four numbers, 0 .. 2^30 - 1, their digits to base 256 side by side, least first: each -128 .. 127.
KBIT_WORD void store_digits(int8_t *p, Ints v) {
  for (int i = 0; i < 16; ++i)
    for (int digit = 0; digit < 4; ++digit) {
      const int byte = (v.at[i] + 0x808080) >> 8 * digit & 255;
      p[16 * (i / 4) + 4 * digit + i % 4] = static_cast<int8_t>(digit < 3 ? byte - 128 : byte);
    }
}
// dot<8> for such digits, where bytes stand for -127 .. 127.
KBIT_WORD Ints dot_digits(Ints acc, Bytes b, const int8_t *digits) { return dot<8>(acc, b, digits); }
// Neighbours APART (1, 2, 4 or 8) change places: row i has what row i ^ APART had.
template <int APART>
KBIT_WORD Ints swapped(Ints a) {
  Ints v;
  for (int i = 0; i < 16; ++i) v.at[i] = a.at[i ^ APART];
  return v;
}
KBIT_WORD Ints lookup(const int32_t *table, Ints at) {
  for (auto &v : at.at) v = table[v];
  return at;
}
KBIT_WORD Longs lookup(const int64_t *table, Ints at) {
  Longs v;
  for (int i = 0; i < 16; ++i) v.at[i] = table[at.at[i]];
  return v;
}

// ---- integers of 64 bits
KBIT_WORD Ints low(Longs a) {  // the lower 32 bits
  Ints v;
  for (int i = 0; i < 16; ++i) v.at[i] = static_cast<int32_t>(a.at[i]);
  return v;
}
KBIT_WORD Ints high(Longs a) {
  Ints v;
  for (int i = 0; i < 16; ++i) v.at[i] = static_cast<int32_t>(a.at[i] >> 32);
  return v;
}
KBIT_WORD Longs broadcast_long(int64_t i) {
  Longs v;
  for (auto &a : v.at) a = i;
  return v;
}
KBIT_WORD Longs operator+(Longs a, Longs b) {
  for (int i = 0; i < 16; ++i) a.at[i] += b.at[i];
  return a;
}
KBIT_WORD Longs operator-(Longs a, Longs b) {
  for (int i = 0; i < 16; ++i) a.at[i] -= b.at[i];
  return a;
}
KBIT_WORD Longs operator|(Longs a, Longs b) {
  for (int i = 0; i < 16; ++i) a.at[i] |= b.at[i];
  return a;
}
KBIT_WORD Longs multiply(Ints a, Ints b) {
  Longs v;
  for (int i = 0; i < 16; ++i) v.at[i] = static_cast<int64_t>(a.at[i]) * b.at[i];
  return v;
}
KBIT_WORD Longs times(Longs a, int32_t n) {  // n >= 0; what has 64 bits
  for (auto &v : a.at) v *= n;
  return a;
}
KBIT_WORD Longs magnitude(Longs a) {
  for (auto &v : a.at) v = v < 0 ? -v : v;
  return a;
}
struct Rounding { Ints shift; };                             // what a shift needs that rounds, made once
KBIT_WORD Rounding rounding(Ints shift) { return {shift}; }  // 0 .. 62
// x / 2^shift rounded half to even, and saturated. |x| <= 2^62.
KBIT_WORD Ints rounded(Longs x, const Rounding &by) {
  Ints v;
  for (int i = 0; i < 16; ++i) {
    const int shift = by.shift.at[i];
    const int64_t rest = (int64_t{1} << shift) - 1;
    const int64_t y = (x.at[i] + (rest >> 1) + (x.at[i] >> shift & rest & 1)) >> shift;
    v.at[i] = static_cast<int32_t>(y < INT32_MIN ? INT32_MIN : y > INT32_MAX ? INT32_MAX : y);
  }
  return v;
}
// The same where 32 bits hold what x becomes, and the shift is 32 at most.
KBIT_WORD Ints rounded_small(Longs x, const Rounding &by) { return rounded(x, by); }
KBIT_WORD int64_t sum(Longs a) {
  int64_t s = 0;
  for (int64_t v : a.at) s += v;
  return s;
}
KBIT_WORD int64_t any_bits(Longs a) {  // those that are set in any
  int64_t all = 0;
  for (int64_t v : a.at) all |= v;
  return all;
}
KBIT_WORD void store_longs(int64_t *p, Longs a) { std::memcpy(p, a.at, 128); }

}  // namespace LANES
}  // namespace kbit
