/* cuda_runtime.h: what a kernel's source sees under the emulator. C++ only. */
#ifndef SIMT_CUDA_RUNTIME_H
#define SIMT_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"
#include "../device.h"

#endif
