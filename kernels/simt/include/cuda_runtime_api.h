/* cuda_runtime_api.h: the part of CUDA's runtime API that kernels/cuda calls, served by
 * kernels/simt on the CPU. C and C++. The functions are renamed by macro (cudaMalloc is
 * simt_cudaMalloc), so that NVIDIA's runtime can be linked into the same binary for the device
 * "cuda".
 *
 * Work on a stream is done when somebody waits for it, not before: a missing wait, or memory freed
 * or changed too early, shows as a wrong result on every run. Values of enums are CUDA's. */
#ifndef SIMT_CUDA_RUNTIME_API_H
#define SIMT_CUDA_RUNTIME_API_H

#include <stddef.h>
#include "vector_types.h"

#define CUDART_VERSION 13000

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInitializationError = 3,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevicePointer = 17,
    cudaErrorInvalidMemcpyDirection = 21,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorECCUncorrectable = 214,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureWrongThread = 908,
    cudaErrorUnknown = 999
} cudaError_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrMemoryPoolsSupported = 115
};

enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess = 0,
    cudaDriverEntryPointSymbolNotFound = 1
};
enum { cudaEnableDefault = 0 };

enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2
};

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2 };
enum { cudaHostRegisterDefault = 0, cudaHostRegisterPortable = 1, cudaHostRegisterReadOnly = 8 };
enum { cudaDeviceScheduleAuto = 0, cudaDeviceScheduleSpin = 1, cudaDeviceScheduleBlockingSync = 4 };

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount, warpSize, maxThreadsPerBlock, l2CacheSize, pciBusID;
};

#define cudaGetDriverEntryPointByVersion simt_cudaGetDriverEntryPointByVersion
#define cudaGetDeviceCount               simt_cudaGetDeviceCount
#define cudaSetDevice                    simt_cudaSetDevice
#define cudaGetDevice                    simt_cudaGetDevice
#define cudaSetDeviceFlags               simt_cudaSetDeviceFlags
#define cudaGetDeviceProperties          simt_cudaGetDeviceProperties
#define cudaDeviceGetAttribute           simt_cudaDeviceGetAttribute
#define cudaDeviceSynchronize            simt_cudaDeviceSynchronize
#define cudaDeviceReset                  simt_cudaDeviceReset
#define cudaDriverGetVersion             simt_cudaDriverGetVersion
#define cudaRuntimeGetVersion            simt_cudaRuntimeGetVersion
#define cudaGetLastError                 simt_cudaGetLastError
#define cudaPeekAtLastError              simt_cudaPeekAtLastError
#define cudaGetErrorName                 simt_cudaGetErrorName
#define cudaGetErrorString               simt_cudaGetErrorString
#define cudaMalloc                       simt_cudaMalloc
#define cudaFree                         simt_cudaFree
#define cudaMallocAsync                  simt_cudaMallocAsync
#define cudaFreeAsync                    simt_cudaFreeAsync
#define cudaMallocHost                   simt_cudaMallocHost
#define cudaHostAlloc                    simt_cudaHostAlloc
#define cudaFreeHost                     simt_cudaFreeHost
#define cudaHostRegister                 simt_cudaHostRegister
#define cudaHostUnregister               simt_cudaHostUnregister
#define cudaMemGetInfo                   simt_cudaMemGetInfo
#define cudaMemcpy                       simt_cudaMemcpy
#define cudaMemcpyAsync                  simt_cudaMemcpyAsync
#define cudaMemcpy2DAsync                simt_cudaMemcpy2DAsync
#define cudaMemset                       simt_cudaMemset
#define cudaMemsetAsync                  simt_cudaMemsetAsync
#define cudaStreamCreate                 simt_cudaStreamCreate
#define cudaStreamCreateWithFlags        simt_cudaStreamCreateWithFlags
#define cudaStreamCreateWithPriority     simt_cudaStreamCreateWithPriority
#define cudaDeviceGetStreamPriorityRange simt_cudaDeviceGetStreamPriorityRange
#define cudaStreamDestroy                simt_cudaStreamDestroy
#define cudaStreamSynchronize            simt_cudaStreamSynchronize
#define cudaStreamQuery                  simt_cudaStreamQuery
#define cudaStreamWaitEvent              simt_cudaStreamWaitEvent
#define cudaEventCreate                  simt_cudaEventCreate
#define cudaEventCreateWithFlags         simt_cudaEventCreateWithFlags
#define cudaEventDestroy                 simt_cudaEventDestroy
#define cudaEventRecord                  simt_cudaEventRecord
#define cudaEventSynchronize             simt_cudaEventSynchronize
#define cudaEventQuery                   simt_cudaEventQuery
#define cudaEventElapsedTime             simt_cudaEventElapsedTime
#define cudaStreamBeginCapture           simt_cudaStreamBeginCapture
#define cudaStreamEndCapture             simt_cudaStreamEndCapture
#define cudaGraphInstantiate             simt_cudaGraphInstantiate
#define cudaGraphLaunch                  simt_cudaGraphLaunch
#define cudaGraphDestroy                 simt_cudaGraphDestroy
#define cudaGraphExecDestroy             simt_cudaGraphExecDestroy

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDeviceFlags(unsigned int flags);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorName(cudaError_t e);
/* For cudaErrorLaunchFailure: what the emulator found, with file and line. */
const char *cudaGetErrorString(cudaError_t e);

/* The driver's functions are asked for by name, so that its library need not be linked:
 * cuTensorMapEncodeTiled. */
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **fn, unsigned int version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found);

cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t s);
cudaError_t cudaFreeAsync(void *p, cudaStream_t s);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned int flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned int flags);
cudaError_t cudaHostUnregister(void *p);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t s);
cudaError_t cudaMemset(void *p, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);

cudaError_t cudaStreamCreate(cudaStream_t *s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned int flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned int flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned int flags);
cudaError_t cudaEventCreate(cudaEvent_t *e);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned int flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e);

/* ---- the emulator's own: not part of CUDA ---- */

/* Options, "name=value" with commas between; also read from the environment variable ANNEAL_SIMT
 * before the first use:
 *   order=seq|rev|rand   which thread of a block (and which block of a grid) goes first
 *   seed=N               of rand
 *   threads=N            blocks of a grid run side by side on N threads of the machine (0: all
 *                        its processors, up to 16); results do not depend on it
 *   devices=N            GPUs there are, 1 to 8
 *   memory=N[M|G]        memory of each; what does not fit is cudaErrorMemoryAllocation
 *   guard=0|1            1: the host cannot touch device memory outside copies and kernels
 *   now=0|1              1: work is done when enqueued (to tell a missing wait from another bug)
 *   cc=80|90             compute capability; at 90 a block may have 227 KB of shared memory
 *   faulty=0|1           1: products by wgmma come out wrong, as if they were misunderstood
 *   fail=N[@D]           the N-th launch from now (on device D) is met by an uncorrectable ECC error:
 *                        its device is lost until cudaDeviceReset
 *   dry=0|1              1: launches and copies are checked, but change nothing: device memory of
 *                        models larger than the machine is zeros that were never written
 *   launches=FILE        when the process ends: every kernel and shape that was launched, how often,
 *                        and the bank conflicts its ldmatrix met (none are counted when dry)
 *   capture=N            the N-th op recorded from now on cannot be: its call fails, and the capture
 * False (and nothing changed after the offender) if an option is unknown. Not while work runs. */
int simt_configure(const char *options);

#ifdef __cplusplus
}
#endif
#endif
