// What a transformer does beside its products, in integers. docs/fixedpoint.md numbers the steps and proves the widths.
#pragma once

#include "fixed.h"
#include "fixed_words.h"

namespace kbit {
namespace LANES {

// ---- rows as codes
// The largest |x| of a row.
template <class T>
KBIT_INLINE int64_t peak_of(const T *row, int64_t n) {
  Ints most = broadcast(0), least = broadcast(0);
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    const Ints x = take(row + c, count);
    most = max(most, x);
    least = min(least, x);
  });
  const int64_t high = largest(most), low = -static_cast<int64_t>(smallest(least));
  return high > low ? high : low;
}

// What a row is multiplied by before its neighbour 1, 2, 4, 8 rows away is added: one has the sum then, the other the difference.
alignas(64) inline constexpr int32_t kSigns[4][16] = {
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
    {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
    {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1},
};
// The Walsh-Hadamard transform of every `width` of n numbers, a multiple of it; f(column, count) are those it begins with. Room
// for n padded to 16, zeros after them.
template <class F>
KBIT_INLINE void hadamard(int32_t *x, int64_t n, int64_t width, F &&f) {
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    Ints v = f(c, count);
    each<4>([&](auto i) KBIT_LAMBDA {
      if (1 << i < width) v = swapped<1 << i>(v) + v * load_ints(kSigns[i]);
    });
    store_ints(x + c, v);
  });
  int64_t apart = 16;
  for (; 4 * apart <= width; apart *= 4)  // two steps at once: half the loads and stores
    for (int64_t base = 0; base < n; base += 4 * apart)
      for (int64_t c = base; c < base + apart; c += 16) {
        Ints v[4];
        each<4>([&](auto i) KBIT_LAMBDA { v[i] = load_ints(x + c + i * apart); });
        const Ints a = v[0] + v[1], b = v[0] - v[1], d = v[2] + v[3], e = v[2] - v[3];
        store_ints(x + c, a + d);
        store_ints(x + c + apart, b + e);
        store_ints(x + c + 2 * apart, a - d);
        store_ints(x + c + 3 * apart, b - e);
      }
  if (apart < width)
    for (int64_t base = 0; base < n; base += 2 * apart)
      for (int64_t c = base; c < base + apart; c += 16) {
        const Ints u = load_ints(x + c), v = load_ints(x + c + apart);
        store_ints(x + c, u + v);
        store_ints(x + c + apart, u - v);
      }
}

// x, each held to +-2^(30-p), under the transform of every `width` = 2^p, / 2^shift.
inline void fixed_hadamard(int32_t *x, int64_t n, int64_t width, int shift, int32_t *scratch) {
  const int32_t most = 1 << (31 - bits(width));
  hadamard(scratch, n, width, [&](int64_t c, int count) KBIT_LAMBDA { return held(take(x + c, count), most); });
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA { give(x + c, rounding_shift(load_ints(scratch + c), shift), count); });
}

template <class T>
inline RowStep codes_of(const FixedCodes &codes, const T *from, int64_t n, int8_t *to) {
  RowStep step = {codes.a, codes.e};
  if (!codes.a) {
    const int64_t peak = held(peak_of(from, n), 0, sizeof(T) > 2 ? INT32_MAX : INT16_MAX);
    step.e = bits(peak) > 15 ? bits(peak) - 15 : 0;
    step.a = static_cast<int32_t>(held(rounding_shift(peak, step.e), 0, INT16_MAX));  // rounding is monotonous
  }
  // A number beyond a becomes L with a given step, as a itself does: held to a, no product leaves 30 bits.
  const int32_t reciprocal = step.a ? (((1 << (codes.k - 1)) - 1) << 23) / step.a : 0;
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    const Ints x = held(rounding_shift(take(from + c, count), step.e), step.a);
    const Ints q = rounded(x * broadcast(reciprocal), 23);
    if (count == 16) {
      store_int8(to + c, q);
    } else {
      int8_t some[16];
      store_int8(some, q);
      __builtin_memcpy(to + c, some, static_cast<size_t>(count));
    }
  });
  return step;
}
template <class T>
KBIT_INLINE RowStep turned_codes_of(const FixedCodes &codes, const T *from, int64_t n, int8_t *to, int32_t *scratch) {
  const int places = bits(codes.width) - 1;
  int32_t turned = sizeof(T) > 2 ? places + 1 : 0;  // exponent of the transform
  if (!codes.a) turned = static_cast<int32_t>(held(bits(held(peak_of(from, n), 0, INT32_MAX)) + places - 30, 0, 31));
  hadamard(scratch, n, codes.width,
           [&](int64_t c, int count) KBIT_LAMBDA { return rounding_shift(take(from + c, count), turned); });
  const RowStep step = codes_of(codes, scratch, n, to);
  return {step.a, step.e + turned};
}
inline RowStep fixed_quantize(const FixedCodes &codes, Integers from, int64_t n, int8_t *to, int32_t *scratch) {
  const auto *ints = static_cast<const int32_t *>(from.at);
  const auto *shorts = static_cast<const int16_t *>(from.at);
  if (codes.width > 1)
    return from.wide ? turned_codes_of(codes, ints, n, to, scratch) : turned_codes_of(codes, shorts, n, to, scratch);
  return from.wide ? codes_of(codes, ints, n, to) : codes_of(codes, shorts, n, to);
}

// ---- norms
KBIT_INLINE int64_t root_of(int64_t x) {  // floor of the square root, x < 2^62
  int64_t root = 0;
  for (int place = 30; place >= 0; --place) {
    const int64_t trial = root | int64_t{1} << place;
    if (trial * trial <= x) root = trial;
  }
  return root;
}

inline void fixed_norm(const FixedNorm &w, Integers from, int16_t *to, int32_t *scratch) {
  constexpr int kRow = 22;
  const int64_t n = w.width;
  const int32_t whole = static_cast<int32_t>(n);
  int64_t peak, total = 0;
  if (w.centred) {  // d = n x - sum: its largest and smallest are those of x
    const int32_t first = from.wide ? *static_cast<const int32_t *>(from.at) : *static_cast<const int16_t *>(from.at);
    Ints most = broadcast(first), least = most;
    Longs sums = broadcast_long(0);
    in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
      const Ints x = take(from, c, count, first);
      most = max(most, x);
      least = min(least, x);
      sums = sums + lengthened(x);
    });
    total = sum(sums) - (pad(n, 16) - n) * first;
    const int64_t high = largest(most) * n - total, low = total - smallest(least) * n;
    peak = high > low ? high : low;
  } else {
    peak = from.wide ? peak_of(static_cast<const int32_t *>(from.at), n) : peak_of(static_cast<const int16_t *>(from.at), n);
  }
  const int e = bits(peak) - kRow > w.least ? bits(peak) - kRow : w.least;
  const int32_t edge = (1 << kRow) - 1;
  const Longs mean = broadcast_long(total);
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    Ints x = take(from, c, count);
    if (w.centred) {
      const Longs d = multiply(x, broadcast(whole)) - mean;
      x = rounded(d, e < 0 ? 0 : e);
    } else if (e > 0) {
      x = e > 31 ? broadcast(0) : rounding_shift(x, e);
    }
    x = e < 0 ? shift_left(x, -e) : held(x, edge);
    store_ints(scratch + c, x);
  });
  for (int64_t c = n; c < pad(n, 16); ++c) scratch[c] = 0;
  Longs squares = broadcast_long(0);
  for (int64_t c = 0; c < n; c += 16) {
    const Ints x = load_ints(scratch + c);
    squares = squares + multiply(x, x);
  }
  const int beyond = 2 * (e - w.least);
  const int64_t ss = sum(squares) + (w.epsilon >> (beyond > 63 ? 63 : beyond));
  const int t = (62 - bits(ss)) & ~1;
  const Ints reciprocal = broadcast(ss ? static_cast<int32_t>((int64_t{1} << 60) / root_of(ss << t)) : 0);
  const int shift = w.shift - t / 2;
  const bool right = shift >= 0 && shift <= kMostShift;
  const Rounding row = rounding(broadcast(kRow)), places = rounding(broadcast(right ? shift : 0));
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    const Ints z = rounded_small(multiply(load_ints(scratch + c), reciprocal), row);  // 30 bits
    const Longs product = multiply(z, take(w.gamma + c, count));
    Ints y = right ? rounded(product, places) : scaled(product, shift);
    if (w.bias) y = add_saturated(y, take(w.bias + c, count));
    give(to + c, y, count);
  });
}

// ---- elementwise
inline void fixed_rotate(int16_t *x, const int16_t *cosine, const int16_t *sine, int64_t half) {
  const Rounding places = rounding(broadcast(14));
  in_sixteens(half, [&](int64_t c, int n) KBIT_LAMBDA {
    const Ints a = take(x + c, n), b = take(x + half + c, n), cos = take(cosine + c, n), sin = take(sine + c, n);
    give(x + c, rounded_small(multiply(a, cos) - multiply(b, sin), places), n);
    give(x + half + c, rounded_small(multiply(b, cos) + multiply(a, sin), places), n);
  });
}

inline void fixed_gate(const int16_t *gates, const int16_t *up, int64_t n, int places, const int32_t *pairs, int32_t *to) {
  constexpr int kKnot = 6;  // 64 knots for each 1
  const int between = places > kKnot ? places - kKnot : 0, spread = places < kKnot ? kKnot - places : 0;
  const int32_t edge = 16 << places;
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    const Ints g = take(gates + c, count), x = held(g, edge) + broadcast(edge);
    const Ints i = shift_right(shift_left(x, spread), between), rest = x & broadcast((1 << between) - 1);
    const Ints knots = lookup(pairs, i), here = knots & broadcast(0xffff), there = shift_right(knots, 16) & broadcast(0xffff);
    const Ints y = g * (here + rounded((there - here) * rest, between));
    give(to + c, up ? rounded(y, 15) * take(up + c, count) : y, count);
  });
}

inline void fixed_add(const int32_t *x, int64_t n, int32_t *to) {
  in_sixteens(
      n, [&](int64_t c, int count) KBIT_LAMBDA { give(to + c, add_saturated(take(to + c, count), take(x + c, count)), count); });
}
inline void fixed_add_shifted(const int16_t *x, int left, int64_t n, int32_t *to) {
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    give(to + c, add_saturated(take(to + c, count), shift_left(take(x + c, count), left)), count);
  });
}

// ---- attention
constexpr int kMixed = kTokens > 4 ? kQueries : 1;  // rows whose digits meet a word of values together: sums take registers

// Step 4: 2^-(d / 2^16) * 2^30 for d of at most 31 * 2^16. What the next knot is below one has 22 bits.
KBIT_INLINE Ints exp2_negative(const int64_t *knots, Ints d) {
  const Longs knot = lookup(knots, shift_right(d, 8) & broadcast(255));
  return shift_right(low(knot) - rounded(high(knot) * (d & broadcast(255)), 8), shift_right(d, 16));
}

// Step 1 of ROWS rows of q, kMostHead apart: sums[i] of a row and all positions of `tiles` into scores.
template <int ROWS>
inline void fixed_scores(const FixedAttention &a, const int8_t *q, const int32_t *starts, int64_t tiles) {
  const int64_t groups = (a.head + kGroup - 1) / kGroup, head = a.head, stride = a.stride, capacity = a.capacity;
  const uint8_t *key = a.keys, *values = a.values;
  int32_t *scores = a.scores;
  for (int64_t tile = 0; tile < tiles; ++tile, scores += 16, values += 4 * 64) {
    // Since the last token all weights have passed through the caches: what is needed soon is asked for, values as keys are met.
    for (int64_t g = 0; g < groups; ++g) __builtin_prefetch(key + 64 * (g + 2 * groups));
    for (int64_t d = 0; d < head; d += 16)
      for (int64_t g = 0; g < 4; ++g) __builtin_prefetch(values + d * capacity + 64 * g);
    Ints s[ROWS];
    each<ROWS>([&](auto i) KBIT_LAMBDA { s[i] = broadcast(starts[i]); });
    for (int64_t g = 0; g < groups; ++g, key += 64) {
      const Bytes k = widen(load_bytes(key));
      each<ROWS>([&](auto i) KBIT_LAMBDA { s[i] = dot<8>(s[i], k, q + i * kMostHead + kGroup * g); });
    }
    each<ROWS>([&](auto i) KBIT_LAMBDA { store_ints(scores + i * stride, s[i]); });
  }
}

struct FixedWeighed {
  int64_t divisor, total;  // of p; of weights
  int s;
};
// Steps 3 to 5 of a row: its sums become digits of weights, and 0 from `length` to the end of `tiles`.
inline FixedWeighed fixed_weigh(const FixedAttention &a, int32_t c, int64_t length, int64_t tiles, int32_t *row) {
  const int16_t *const key_steps = a.key_steps, *const value_steps = a.value_steps;
  const int64_t *const exp2 = a.exp2;
  const int64_t mine = (length + 15) / 16, last = 16 * (mine - 1);
  const Rounding places = rounding(broadcast(a.shift));
  Ints most = broadcast(INT32_MIN);
  for (int64_t t = 0; t < 16 * mine; t += 16) {
    Ints x = rounded(times(multiply(load_ints(row + t), load_ints(key_steps + t)), c), places);
    store_ints(row + t, x);
    if (t == last) {  // what is not seen counts as far below
      x = take(row + t, static_cast<int>(length - last), INT32_MIN);
      store_ints(row + t, x);
    }
    most = max(most, x);
  }
  const int32_t peak = largest(most);
  const Ints highest = broadcast(peak), lowest = broadcast(saturated(int64_t{peak} - (31 << 16)));  // from here down p is 0
  Longs sums = broadcast_long(0), all = broadcast_long(0);
  for (int64_t t = 0; t < 16 * mine; t += 16) {
    Ints p = exp2_negative(exp2, highest - max(load_ints(row + t), lowest));
    store_ints(row + t, p);
    if (t == last) {  // the lowest may be less than that below
      p = take(row + t, static_cast<int>(length - last));
      store_ints(row + t, p);
    }
    sums = sums + lengthened(p);
    all = all | multiply(p, load_ints(value_steps + t));  // as many bits as the largest
  }
  const int s = bits(any_bits(all)) > 30 ? bits(any_bits(all)) - 30 : 0;
  const Rounding down = rounding(broadcast(s));
  const Ints edge = broadcast((1 << 30) - 1);
  Longs total = broadcast_long(0);
  for (int64_t t = 0; t < 16 * mine; t += 16) {
    const Ints w = min(rounded_small(multiply(load_ints(row + t), load_ints(value_steps + t)), down), edge);
    total = total + lengthened(w);
    store_digits(reinterpret_cast<int8_t *>(row + t), w);
  }
  for (int64_t t = 16 * mine; t < 16 * tiles; t += 16) store_ints(row + t, broadcast(0));
  return {sum(sums), sum(total), s};
}

// Step 6 of ROWS rows of digits, `stride` scores apart: a row's o into `mixed`, kMostHead / 16 words apart.
template <int ROWS>
inline void fixed_mix(const FixedAttention &a, const int32_t *scores, const FixedWeighed *weighed, int64_t tiles, Longs *mixed) {
  // A digit's sum grows by 4 * 128 * 255 a group at most, so 2^12 groups fit an int32.
  constexpr int64_t kTogether = 4096;
  const int64_t head = a.head, capacity = a.capacity, stride = kGroup * a.stride;
  const uint8_t *const values = a.values;
  for (int64_t d = 0; d < head; d += 16) {
    const uint8_t *value = values + d * capacity;
    const int8_t *digits = reinterpret_cast<const int8_t *>(scores);
    Longs *const o = mixed + d / 16;
    each<ROWS>([&](auto i) KBIT_LAMBDA { o[i * kMostHead / 16] = broadcast_long(-kWideBias * weighed[i].total); });
    for (int64_t left = 4 * tiles; left > 0; left -= kTogether) {
      Ints sums[ROWS][kDigits];
      each<ROWS>([&](auto i) KBIT_LAMBDA { each<kDigits>([&](auto j) KBIT_LAMBDA { sums[i][j] = broadcast(0); }); });
      for (int64_t g = left < kTogether ? left : kTogether; g > 0; --g, value += 64, digits += 16) {
        const Bytes v = widen(load_bytes(value));
        each<ROWS>([&](auto i) KBIT_LAMBDA {
          each<kDigits>([&](auto j) KBIT_LAMBDA { sums[i][j] = dot_digits(sums[i][j], v, digits + i * stride + kGroup * j); });
        });
      }
      each<ROWS>([&](auto i) KBIT_LAMBDA {
        Longs &all = o[i * kMostHead / 16];
        each<kDigits>([&](auto j) KBIT_LAMBDA { all = all + multiply(sums[i][j], broadcast(1 << 8 * j)); });
      });
    }
  }
}

// Steps 7 and 8 of a row.
inline void fixed_divide(const FixedAttention &a, const FixedWeighed &weighed, const Longs *mixed, int16_t *to) {
  Longs all = broadcast_long(0);
  for (int64_t d = 0; d < a.head; d += 16) all = all | magnitude(mixed[d / 16]);  // as many bits as the largest
  const int64_t divisor = weighed.divisor;
  const int g = bits(any_bits(all)) > 30 ? bits(any_bits(all)) - 30 : 0, h = bits(divisor) > 31 ? bits(divisor) - 31 : 0;
  const Ints reciprocal = broadcast(static_cast<int32_t>((int64_t{1} << 60) / (divisor >> h)));
  const int places = 60 + h + a.k_v - 1 - weighed.s - g;
  in_sixteens(a.head, [&](int64_t d, int n)
                          KBIT_LAMBDA { give(to + d, rounded(multiply(rounded(mixed[d / 16], g), reciprocal), places), n); });
}

template <int ROWS>
inline void fixed_attend_rows(const FixedAttention &a, const int16_t *const *queries, const int64_t *lengths,
                              int16_t *const *to) {
  alignas(64) int8_t q[ROWS * kMostHead] = {};
  int32_t starts[ROWS];
  FixedWeighed weighed[ROWS];
  Longs mixed[ROWS * kMostHead / 16];
  RowStep steps[ROWS];
  int64_t longest = 0;
  for (int i = 0; i < ROWS; ++i) {
    int8_t *const row = q + i * kMostHead;
    steps[i] = fixed_quantize({8, 0, 0, 0}, {queries[i], false}, a.head, row, nullptr);
    Ints total = broadcast(0);
    in_sixteens(a.head, [&](int64_t d, int n) KBIT_LAMBDA { total = total + take(row + d, n); });
    starts[i] = -kWideBias * sum(total);
    longest = lengths[i] > longest ? lengths[i] : longest;
  }
  const int64_t tiles = (longest + 15) / 16;
  fixed_scores<ROWS>(a, q, starts, tiles);
  for (int i = 0; i < ROWS; ++i) {
    const int32_t c = static_cast<int32_t>(rounding_shift(int64_t{steps[i].a} * a.multiplier, 6));  // step 2
    weighed[i] = fixed_weigh(a, c, lengths[i], tiles, a.scores + i * a.stride);
  }
  if constexpr (kMixed > 1) {
    fixed_mix<ROWS>(a, a.scores, weighed, tiles, mixed);
  } else {
    for (int i = 0; i < ROWS; ++i) fixed_mix<1>(a, a.scores + i * a.stride, weighed + i, tiles, mixed + i * kMostHead / 16);
  }
  for (int i = 0; i < ROWS; ++i) fixed_divide(a, weighed[i], mixed + i * kMostHead / 16, to[i]);
}
inline void fixed_attend(const FixedAttention &a, const int16_t *const *queries, const int64_t *lengths, int rows,
                         int16_t *const *to) {
  switch (rows) {
    case 1: return fixed_attend_rows<1>(a, queries, lengths, to);
    case 2: return fixed_attend_rows<2>(a, queries, lengths, to);
    case 3: return fixed_attend_rows<3>(a, queries, lengths, to);
    default: return fixed_attend_rows<kQueries>(a, queries, lengths, to);
  }
}

}  // namespace LANES
}  // namespace kbit
