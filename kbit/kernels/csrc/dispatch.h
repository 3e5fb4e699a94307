// Instruction sets: which were built, which this machine runs, which one is in use.
#pragma once

#include "view.h"

namespace kbit {

const Kernels &kernels();  // of the instruction set in use

}  // namespace kbit
