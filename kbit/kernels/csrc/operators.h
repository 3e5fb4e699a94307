// What a transformer does beside its products, in float32 and in one order of additions on every machine.
#pragma once

#include "view.h"

namespace kbit {
namespace LANES {

// f(word, column, count) for the columns [0, width) in sixteens; the last word may be short.
template <class F>
KBIT_INLINE void sixteens(int64_t width, F &&f) {
  int64_t c = 0;
  for (; c + 16 <= width; c += 16) f(c, 16);
  if (c < width) f(c, static_cast<int>(width - c));
}
KBIT_INLINE Floats take(const float *p, int n) { return n == 16 ? load_floats(p) : load_some(p, n); }
KBIT_INLINE void give(float *p, Floats f, int n) {
  if (n == 16) store_floats(p, f);
  else store_some(p, f, n);
}

// e^x to 2 ulp: x = n ln 2 + r, a polynomial in r (Cephes, expf), 2^n by its bits. x is held in [-87, 88]; NaN gives NaN.
KBIT_INLINE Floats exponential(Floats x) {
  x = max(broadcast(-87.0f), x);  // x second: max gives its second where one is NaN, and NaN stays NaN
  x = broadcast(0.0f) - max(broadcast(-88.0f), broadcast(0.0f) - x);
  const Ints n = nearest(x * broadcast(1.44269504f));
  const Floats f = to_floats(n);
  Floats r = fma(f, broadcast(-0.693359375f), x);  // ln 2 in two parts: the first has few bits, so that f times it is exact
  r = fma(f, broadcast(2.12194440e-4f), r);
  Floats p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  return (fma(p, r * r, r) + broadcast(1.0f)) * power_of_two(n);
}

// y = x / sqrt(mean(x^2) + epsilon) * weight
inline void rms_norm(const float *x, const float *weight, int64_t width, float epsilon, float *y) {
  Floats squares = broadcast(0.0f);
  sixteens(width, [&](int64_t c, int n) KBIT_LAMBDA {
    const Floats v = take(x + c, n);
    squares = fma(v, v, squares);
  });
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(width) + epsilon);
  sixteens(width, [&](int64_t c, int n) KBIT_LAMBDA { give(y + c, take(x + c, n) * broadcast(scale) * take(weight + c, n), n); });
}

inline void gate(const float *gates, const float *up, int64_t width, float *y) {
  const Floats one = broadcast(1.0f), zero = broadcast(0.0f);
  sixteens(width, [&](int64_t c, int n) KBIT_LAMBDA {
    const Floats g = take(gates + c, n);
    give(y + c, g / (one + exponential(zero - g)) * take(up + c, n), n);
  });
}

inline void add(const float *x, int64_t width, float *y) {
  sixteens(width, [&](int64_t c, int n) KBIT_LAMBDA { give(y + c, take(y + c, n) + take(x + c, n), n); });
}

// y = w x for w (n_out, n_in) in float32
inline void dense(const float *w, const float *x, int64_t n_out, int64_t n_in, float *y) {
  for (int64_t row = 0; row < n_out; ++row, w += n_in) {
    Floats total = broadcast(0.0f);
    sixteens(n_in, [&](int64_t c, int n) KBIT_LAMBDA { total = fma(take(w + c, n), take(x + c, n), total); });
    y[row] = sum(total);
  }
}

// Rotary position embedding (Su et al. 2021) of one head, its halves rotated against each other as transformers has it.
inline void rotate(float *x, const float *cosine, const float *sine, int64_t head) {
  const int64_t half = head / 2;
  sixteens(half, [&](int64_t c, int n) KBIT_LAMBDA {
    const Floats a = take(x + c, n), b = take(x + half + c, n), cos = take(cosine + c, n), sin = take(sine + c, n);
    give(x + c, a * cos - b * sin, n);
    give(x + half + c, fma(a, sin, b * cos), n);
  });
}

// softmax(scale * q k^T) v of up to kQueries rows; row i sees the first lengths[i] positions.
template <int ROWS>
KBIT_INLINE void attend_rows(const Attention &a, const float *const *q, const int64_t *lengths, float *const *out) {
  int64_t longest = 0;
  for (int i = 0; i < ROWS; ++i) longest = lengths[i] > longest ? lengths[i] : longest;
  Floats most[ROWS];
  each<ROWS>([&](auto i) KBIT_LAMBDA { most[i] = broadcast(-3.0e38f); });
  const float *key = a.keys;
  for (int64_t p = 0; p < longest; p += 16) {
    Floats score[ROWS];
    each<ROWS>([&](auto i) KBIT_LAMBDA { score[i] = broadcast(0.0f); });
    for (int64_t d = 0; d < a.head; ++d, key += 16) {
      const Floats k = load_floats(key);
      each<ROWS>([&](auto i) KBIT_LAMBDA { score[i] = fma(k, broadcast(q[i][d]), score[i]); });
    }
    each<ROWS>([&](auto i) KBIT_LAMBDA {
      const Floats s = score[i] * broadcast(a.scale);
      store_floats(a.scores + i * a.stride + p, s);
      if (p + 16 <= lengths[i]) most[i] = max(most[i], s);
      else
        for (int64_t j = p; j < lengths[i]; ++j) most[i] = max(most[i], broadcast(a.scores[i * a.stride + j]));
    });
  }
  float inverse[ROWS];
  each<ROWS>([&](auto i) KBIT_LAMBDA {
    float *weights = a.scores + i * a.stride;
    const Floats highest = broadcast(largest(most[i]));
    Floats total = broadcast(0.0f);
    for (int64_t p = 0; p < longest; p += 16) {
      const int64_t seen = lengths[i] - p;
      store_floats(weights + p, exponential(load_floats(weights + p) - highest));
      const Floats e = seen >= 16 ? load_floats(weights + p)
                       : seen > 0 ? load_some(weights + p, static_cast<int>(seen))
                                  : broadcast(0.0f);
      store_floats(weights + p, e);
      total = total + e;
    }
    inverse[i] = 1.0f / sum(total);
  });
  sixteens(a.head, [&](int64_t d, int n) KBIT_LAMBDA {
    Floats mixed[ROWS];
    each<ROWS>([&](auto i) KBIT_LAMBDA { mixed[i] = broadcast(0.0f); });
    for (int64_t p = 0; p < longest; ++p) {
      const Floats v = take(a.values + p * a.head + d, n);
      each<ROWS>([&](auto i) KBIT_LAMBDA { mixed[i] = fma(v, broadcast(a.scores[i * a.stride + p]), mixed[i]); });
    }
    each<ROWS>([&](auto i) KBIT_LAMBDA { give(out[i] + d, mixed[i] * broadcast(inverse[i]), n); });
  });
}
inline void attend(const Attention &a, const float *const *q, const int64_t *lengths, int rows, float *const *out) {
  switch (rows) {
    case 1: return attend_rows<1>(a, q, lengths, out);
    case 2: return attend_rows<2>(a, q, lengths, out);
    case 3: return attend_rows<3>(a, q, lengths, out);
    default: return attend_rows<4>(a, q, lengths, out);
  }
}

}  // namespace LANES
}  // namespace kbit
