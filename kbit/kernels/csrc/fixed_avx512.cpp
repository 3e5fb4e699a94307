#define LANES avx512
#include "each.h"
#include "lanes_avx512.h"
#include "wide_avx512.h"
#include "fixed_isa.h"

namespace kbit {
extern const FixedKernels f_avx512;
const FixedKernels f_avx512 = LANES::kFixedKernels;
}  // namespace kbit
