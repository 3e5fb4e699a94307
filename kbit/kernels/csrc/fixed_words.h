// The words that integer operators share, made of those of the instruction set: rounding, saturation, rows that end anywhere.
#pragma once

namespace kbit {
namespace LANES {

// ---- single numbers
KBIT_INLINE int bits(int64_t x) { return x > 0 ? 64 - __builtin_clzll(static_cast<uint64_t>(x)) : 0; }  // bit length
KBIT_INLINE int64_t rounding_shift(int64_t x, int s) {  // x / 2^s rounded half to even, |x| <= 2^62
  if (s > 62) return 0;
  const int64_t rest = (int64_t{1} << s) - 1;
  return (x + (rest >> 1) + (x >> s & rest & 1)) >> s;
}
KBIT_INLINE int64_t held(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
KBIT_INLINE int32_t saturated(int64_t x) { return static_cast<int32_t>(held(x, INT32_MIN, INT32_MAX)); }
KBIT_INLINE int32_t scaled(int64_t x, int shift) {  // x * 2^-shift, rounded and saturated; a left shift beyond 31 is one of 31
  if (shift >= 0) return saturated(rounding_shift(x, shift));
  return saturated(saturated(x) * (int64_t{1} << (shift < -31 ? 31 : -shift)));
}

// ---- rows
// f(column, count) for the columns [0, width) in sixteens; the last word may be short.
template <class F>
KBIT_INLINE void in_sixteens(int64_t width, F &&f) {
  int64_t c = 0;
  for (; c + 16 <= width; c += 16) f(c, 16);
  if (c < width) f(c, static_cast<int>(width - c));
}
// The first n numbers at p, and `filled` after them.
template <class T>
__attribute__((noinline)) Ints take_some(const T *p, int n, T filled) {
  T all[16];
  for (T &one : all) one = filled;
  __builtin_memcpy(all, p, static_cast<size_t>(n) * sizeof(T));
  return load_ints(all);
}
template <class T>
KBIT_INLINE Ints take(const T *p, int n, T filled = 0) {
  return n == 16 ? load_ints(p) : take_some(p, n, filled);
}
KBIT_INLINE Ints take(Integers row, int64_t c, int n, int32_t filled = 0) {
  if (row.wide) return take(static_cast<const int32_t *>(row.at) + c, n, filled);
  return take(static_cast<const int16_t *>(row.at) + c, n, static_cast<int16_t>(filled));
}
template <class T>
__attribute__((noinline)) void give_some(T *p, Ints v, int n) {
  T all[16];
  store_ints(all, v);
  __builtin_memcpy(p, all, static_cast<size_t>(n) * sizeof(T));
}
template <class T>
KBIT_INLINE void give(T *p, Ints v, int n) {
  if (n == 16) store_ints(p, v);
  else give_some(p, v, n);
}

// ---- sixteen numbers
KBIT_INLINE int32_t smallest(Ints a) { return -1 - largest(broadcast(-1) - a); }
KBIT_INLINE Ints held(Ints x, int32_t most) { return max(min(x, broadcast(most)), broadcast(-most)); }
// x / 2^s rounded half to even: any x, s 0 .. 31.
KBIT_INLINE Ints rounding_shift(Ints x, int s) {
  if (s == 0) return x;
  const int32_t half = int32_t{1} << (s - 1);
  const Ints whole = shift_right(x, s), rest = x & broadcast(half - 1 + half);
  return whole - shift_right(broadcast(half) - rest - (whole & broadcast(1)), 31);  // one up where rest + odd > half
}
// The same in fewer instructions: |x| <= 2^30.
KBIT_INLINE Ints rounded(Ints x, int s) {
  if (s == 0) return x;
  return shift_right(x + broadcast((int32_t{1} << (s - 1)) - 1) + (shift_right(x, s) & broadcast(1)), s);
}
KBIT_INLINE Longs lengthened(Ints x) { return multiply(x, broadcast(1)); }
KBIT_INLINE Ints rounded(Longs x, Ints shift) { return rounded(x, rounding(shift)); }
KBIT_INLINE Ints rounded(Longs x, int shift) { return shift > kMostShift ? broadcast(0) : rounded(x, broadcast(shift)); }
KBIT_INLINE Ints add_saturated(Ints a, Ints b) {  // b is held to what is left above and below a
  b = min(b, broadcast(INT32_MAX) - max(a, broadcast(0)));
  return a + max(b, broadcast(INT32_MIN) - min(a, broadcast(0)));
}
KBIT_INLINE Ints scaled(Longs x, int shift) {
  if (shift >= 0) return rounded(x, shift);
  const int left = shift < -31 ? 31 : -shift;
  const Longs y = multiply(rounded(x, 0), broadcast(int32_t{1} << (left < 31 ? left : 30)));
  return rounded(left < 31 ? y : y + y, 0);
}
// Rare, and so kept out of the loops of those that call it.
__attribute__((noinline)) inline Ints scaled_each(Longs x, Ints shift) {
  int64_t from[16];
  int32_t shifts[16], to[16];
  store_longs(from, x);
  store_ints(shifts, shift);
  for (int i = 0; i < 16; ++i) to[i] = scaled(from[i], shifts[i]);
  return load_ints(to);
}

}  // namespace LANES
}  // namespace kbit
