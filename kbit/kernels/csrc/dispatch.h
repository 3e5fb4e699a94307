// Instruction sets: which were built, which this machine runs, which one is in use.
#pragma once

#include "fixed.h"

namespace kbit {

const Kernels &kernels();  // of the instruction set in use
const FixedKernels &fixed_kernels();

}  // namespace kbit
