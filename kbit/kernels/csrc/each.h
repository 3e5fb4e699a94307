// A loop over compile-time constants: each<3>(f) calls f(0), f(1), f(2), every argument an integral constant.
#pragma once

#include <utility>

#define KBIT_INLINE inline __attribute__((always_inline))
#define KBIT_LAMBDA __attribute__((always_inline))  // after the parameters of a lambda

namespace kbit {
namespace LANES {

template <class F, int... I>
KBIT_INLINE void each_of(F &&f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
KBIT_INLINE void each(F &&f) {
  each_of(static_cast<F &&>(f), std::make_integer_sequence<int, N>{});
}

}  // namespace LANES
}  // namespace kbit
