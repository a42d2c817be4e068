// What the processor this process runs on can do.

#pragma once

#include "problem.h"

namespace omniq {

// The kernels in use: of the widest instruction set the processor has, or of the one chosen by omniq_cpu_use_isa.
const Kernels& kernels();

}  // namespace omniq
