#define LANES avx2
#include "each.h"
#include "lanes_avx2.h"
#include "wide_avx2.h"
#include "fixed_isa.h"

namespace kbit {
extern const FixedKernels f_avx2;
const FixedKernels f_avx2 = LANES::kFixedKernels;
}  // namespace kbit
