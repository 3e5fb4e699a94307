// What a transformer does beside its products, in integers. docs/fixedpoint.md numbers the steps and proves the widths.
#pragma once

#include "fixed.h"
#include "fixed_words.h"

namespace kbit {
namespace LANES {

// ---- rows as codes
// The largest |x| of a row.
KBIT_INLINE int64_t peak_of(Integers row, int64_t n) {
  Ints most = broadcast(0), least = broadcast(0);
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    const Ints x = take(row, c, count);
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
// The Walsh-Hadamard transform of every `width` of n numbers, a multiple of it; room for n padded to 16, zeros after them.
KBIT_INLINE void hadamard(int32_t *x, int64_t n, int64_t width) {
  for (int64_t c = 0; c < n; c += 16) {
    Ints v = load_ints(x + c);
    each<4>([&](auto i) KBIT_LAMBDA {
      if (1 << i < width) v = swapped<1 << i>(v) + v * load_ints(kSigns[i]);
    });
    store_ints(x + c, v);
  }
  for (int64_t apart = 16; apart < width; apart *= 2)
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
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA { store_ints(scratch + c, held(take(x + c, count), most)); });
  hadamard(scratch, n, width);
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA { give(x + c, rounding_shift(load_ints(scratch + c), shift), count); });
}

inline RowStep fixed_quantize(const FixedCodes &codes, Integers from, int64_t n, int8_t *to, int32_t *scratch) {
  int32_t turned = 0;  // exponent of the transform
  if (codes.width > 1) {
    const int places = bits(codes.width) - 1;
    if (codes.a) turned = from.wide ? places + 1 : 0;
    else turned = static_cast<int32_t>(held(bits(held(peak_of(from, n), 0, INT32_MAX)) + places - 30, 0, 31));
    in_sixteens(n,
                [&](int64_t c, int count) KBIT_LAMBDA { store_ints(scratch + c, rounding_shift(take(from, c, count), turned)); });
    hadamard(scratch, n, codes.width);
    from = {scratch, true};
  }
  RowStep step = {codes.a, codes.e};
  if (!codes.a) {
    const int64_t peak = held(peak_of(from, n), 0, from.wide ? INT32_MAX : INT16_MAX);
    step.e = bits(peak) > 15 ? bits(peak) - 15 : 0;
    step.a = static_cast<int32_t>(held(rounding_shift(peak, step.e), 0, INT16_MAX));  // rounding is monotonous
  }
  // A number beyond a becomes L with a given step, as a itself does: held to a, no product leaves 30 bits.
  const int32_t reciprocal = step.a ? (((1 << (codes.k - 1)) - 1) << 23) / step.a : 0;
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    const Ints x = held(rounding_shift(take(from, c, count), step.e), step.a);
    const Ints q = rounding_shift(x * broadcast(reciprocal), 23);
    if (count == 16) {
      store_int8(to + c, q);
    } else {
      int8_t some[16];
      store_int8(some, q);
      __builtin_memcpy(to + c, some, static_cast<size_t>(count));
    }
  });
  return {step.a, step.e + turned};
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
    peak = peak_of(from, n);
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
  in_sixteens(n, [&](int64_t c, int count) KBIT_LAMBDA {
    const Ints z = rounded(multiply(load_ints(scratch + c), reciprocal), kRow);
    Ints y = scaled(multiply(z, take(w.gamma + c, count)), w.shift - t / 2);
    if (w.bias) y = add_saturated(y, take(w.bias + c, count));
    give(to + c, y, count);
  });
}

// ---- elementwise
inline void fixed_rotate(int16_t *x, const int16_t *cosine, const int16_t *sine, int64_t half) {
  in_sixteens(half, [&](int64_t c, int n) KBIT_LAMBDA {
    const Ints a = take(x + c, n), b = take(x + half + c, n), cos = take(cosine + c, n), sin = take(sine + c, n);
    give(x + c, rounded(multiply(a, cos) - multiply(b, sin), 14), n);
    give(x + half + c, rounded(multiply(b, cos) + multiply(a, sin), 14), n);
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
    const Ints y = g * (here + rounding_shift((there - here) * rest, between));
    give(to + c, up ? rounding_shift(y, 15) * take(up + c, count) : y, count);
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
// Step 4: 2^-(d / 2^16) * 2^30 for d of at most 31 * 2^16.
KBIT_INLINE Ints exp2_negative(const int32_t *knots, Ints d) {
  const Ints i = shift_right(d, 8) & broadcast(255), here = lookup(knots, i), next = lookup(knots + 1, i);
  return shift_right(here - rounding_shift((here - next) * (d & broadcast(255)), 8), shift_right(d, 16));
}

inline void fixed_attend(const FixedAttention &a, const int16_t *query, int16_t *to) {
  alignas(64) int8_t q[kMostHead] = {};
  const RowStep step = fixed_quantize({8, 0, 0, 0}, {query, false}, a.head, q, nullptr);
  const int32_t c = static_cast<int32_t>(rounding_shift(int64_t{step.a} * a.multiplier, 6));
  const int64_t groups = (a.head + kGroup - 1) / kGroup, tiles = (a.length + 15) / 16, seen = a.length - 16 * (tiles - 1);
  Ints total = broadcast(0);
  in_sixteens(a.head, [&](int64_t d, int n) KBIT_LAMBDA { total = total + take(q + d, n); });
  const Ints start = broadcast(-kWideBias * sum(total));
  // s a_k c has 61 bits. With c = 2^9 high + low it is (2^9 s) (a_k high) + s (a_k low), whose factors have 31 at most.
  const Ints high = broadcast(c >> 9), low = broadcast(c & 511);
  Ints most = broadcast(INT32_MIN);
  const uint8_t *key = a.keys;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    // Since the last token all weights have passed through the caches: what is needed soon is asked for, values as keys are met.
    for (int64_t g = 0; g < groups; ++g) __builtin_prefetch(key + 64 * (g + 2 * groups));
    for (int64_t d = 0; d < a.head; d += 16)
      for (int64_t g = 0; g < 4; ++g) __builtin_prefetch(a.values + d * a.capacity + 64 * (4 * tile + g));
    Ints s = start;
    int64_t g = 0;
    for (; g + 8 <= groups; g += 8, key += 512)
      s = dot8<8>(s, [&](auto i) KBIT_LAMBDA { return widen(load_bytes(key + 64 * i)); }, q + kGroup * g);
    for (; g < groups; ++g, key += 64) s = dot<8>(s, widen(load_bytes(key)), q + kGroup * g);
    const Ints steps = load_ints(a.key_steps + 16 * tile);
    s = rounded(multiply(shift_left(s, 9), steps * high) + multiply(s, steps * low), broadcast(a.shift));
    store_ints(a.scores + 16 * tile, s);
    if (tile + 1 == tiles) {  // what is not seen counts as far below
      s = take(a.scores + 16 * tile, static_cast<int>(seen), INT32_MIN);
      store_ints(a.scores + 16 * tile, s);
    }
    most = max(most, s);
  }
  const int32_t peak = largest(most);
  const Ints lowest = broadcast(saturated(int64_t{peak} - (31 << 16)));  // from here down p is 0
  Longs sums = broadcast_long(0), all = broadcast_long(0);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    int32_t *at = a.scores + 16 * tile;
    store_ints(at, exp2_negative(a.exp2, broadcast(peak) - max(load_ints(at), lowest)));
    if (tile + 1 == tiles)
      for (int64_t i = seen; i < 16; ++i) at[i] = 0;
    const Ints p = load_ints(at);
    sums = sums + lengthened(p);
    all = all | multiply(p, load_ints(a.value_steps + 16 * tile));  // as many bits as the largest
  }
  const int64_t divisor = sum(sums);
  const int s = bits(any_bits(all)) > 30 ? bits(any_bits(all)) - 30 : 0;
  Longs weights = broadcast_long(0);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const Ints u = rounded(multiply(load_ints(a.scores + 16 * tile), load_ints(a.value_steps + 16 * tile)), broadcast(s));
    const Ints w = min(u, broadcast((1 << 30) - 1));
    weights = weights + lengthened(w);
    each<kDigits>([&](auto i)
                      KBIT_LAMBDA { store_int8(a.digits + i * 16 * tiles + 16 * tile, shift_right(w, 7 * i) & broadcast(127)); });
  }
  // Step 6: a digit's sum grows by 4 * 127 * 255 a group at most, so 2^12 groups fit an int32.
  constexpr int64_t kTogether = 4096;
  const Longs carries = broadcast_long(kWideBias * sum(weights));
  Longs mixed[kMostHead / 16];
  int64_t each_o[kMostHead];
  for (int64_t d = 0; d < a.head; d += 16) {
    const uint8_t *value = a.values + d * a.capacity;
    Longs o = broadcast_long(0) - carries;
    for (int64_t g = 0; g < 4 * tiles;) {
      Ints sums_of[kDigits];
      each<kDigits>([&](auto i) KBIT_LAMBDA { sums_of[i] = broadcast(0); });
      for (const int64_t end = 4 * tiles - g < kTogether ? 4 * tiles : g + kTogether; g < end; ++g, value += 64) {
        const Bytes v = widen(load_bytes(value));
        each<kDigits>([&](auto i) KBIT_LAMBDA { sums_of[i] = dot<8>(sums_of[i], v, a.digits + i * 16 * tiles + kGroup * g); });
      }
      each<kDigits>([&](auto i) KBIT_LAMBDA { o = o + multiply(sums_of[i], broadcast(1 << 7 * i)); });
    }
    mixed[d / 16] = o;
    store_longs(each_o + d, o);
  }
  int64_t largest_o = 0;
  for (int64_t d = 0; d < a.head; ++d) {
    const int64_t size = each_o[d] < 0 ? -each_o[d] : each_o[d];
    largest_o = size > largest_o ? size : largest_o;
  }
  const int g = bits(largest_o) > 30 ? bits(largest_o) - 30 : 0, h = bits(divisor) > 31 ? bits(divisor) - 31 : 0;
  const Ints reciprocal = broadcast(static_cast<int32_t>((int64_t{1} << 60) / (divisor >> h)));
  in_sixteens(a.head, [&](int64_t d, int n) KBIT_LAMBDA {
    give(to + d, rounded(multiply(rounded(mixed[d / 16], g), reciprocal), 60 + h + a.k_v - 1 - s - g), n);
  });
}

}  // namespace LANES
}  // namespace kbit
