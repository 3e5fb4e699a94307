#define LANES neon_dot
#include "each.h"
#include "lanes_neon.h"
#include "wide_neon.h"
#include "fixed_isa.h"

namespace kbit {
extern const FixedKernels f_neon_dot;
const FixedKernels f_neon_dot = LANES::kFixedKernels;
}  // namespace kbit
