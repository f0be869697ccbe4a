/* Opening a GPU where there is none that will do: every message says what was found and what is
 * needed. kernels/cuda/device.c is built here against a runtime of lies. */
#define AN_GPU_PREFIX an_cuda_
#include <cuda_runtime_api.h>

#include <stdbool.h>

/* What the runtime of this test answers. */
static struct {
    int devices, driver, runtime, major, minor;
    cudaError_t count, set, alloc;
    int current, streams, events, pinned;
    bool wgmma; /* right */
} lie;

#undef cudaGetDeviceCount
#undef cudaDriverGetVersion
#undef cudaRuntimeGetVersion
#undef cudaGetLastError
#undef cudaGetErrorString
#undef cudaGetErrorName
#undef cudaGetDeviceProperties
#undef cudaSetDevice
#undef cudaStreamCreateWithFlags
#undef cudaStreamDestroy
#undef cudaMallocHost
#undef cudaFreeHost
#undef cudaEventCreateWithFlags
#undef cudaEventDestroy
#define cudaGetDeviceCount        lie_count
#define cudaDriverGetVersion      lie_driver
#define cudaRuntimeGetVersion     lie_runtime
#define cudaGetLastError          lie_last
#define cudaGetErrorString        lie_text
#define cudaGetErrorName          lie_name
#define cudaGetDeviceProperties   lie_properties
#define cudaSetDevice             lie_set
#define cudaStreamCreateWithFlags lie_stream
#define cudaStreamDestroy         lie_stream_end
#define cudaMallocHost            lie_pinned
#define cudaFreeHost              lie_pinned_end
#define cudaEventCreateWithFlags  lie_event
#define cudaEventDestroy          lie_event_end

static cudaError_t lie_count(int *n)
{
    *n = lie.devices;
    return lie.count;
}
static cudaError_t lie_driver(int *v)
{
    *v = lie.driver;
    return cudaSuccess;
}
static cudaError_t lie_runtime(int *v)
{
    *v = lie.runtime;
    return cudaSuccess;
}
static cudaError_t lie_last(void)
{
    return cudaSuccess;
}
static const char *lie_text(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation ? "out of memory" : "uncorrectable ECC error encountered";
}
static const char *lie_name(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorECC";
}
static cudaError_t lie_properties(struct cudaDeviceProp *p, int index)
{
    static const struct cudaDeviceProp none;
    *p = none;
    __builtin_snprintf(p->name, sizeof p->name, "NVIDIA Thing %d", index);
    p->major = lie.major;
    p->minor = lie.minor;
    p->multiProcessorCount = 132;
    p->totalGlobalMem = (size_t)80 << 30;
    return cudaSuccess;
}
static cudaError_t lie_set(int index)
{
    if (!lie.set) lie.current = index;
    return lie.set;
}
static cudaError_t lie_stream(cudaStream_t *s, unsigned flags)
{
    *s = (cudaStream_t)(void *)&lie;
    lie.streams++;
    return flags == cudaStreamNonBlocking ? cudaSuccess : cudaErrorInvalidValue;
}
static cudaError_t lie_stream_end(cudaStream_t s)
{
    lie.streams -= s != NULL;
    return cudaSuccess;
}
static cudaError_t lie_pinned(void **p, size_t bytes)
{
    if (lie.alloc || !bytes) return lie.alloc;
    *p = &lie;
    lie.pinned++;
    return cudaSuccess;
}
static cudaError_t lie_pinned_end(void *p)
{
    lie.pinned -= p != NULL;
    return cudaSuccess;
}
static cudaError_t lie_event(cudaEvent_t *e, unsigned flags)
{
    *e = (cudaEvent_t)(void *)&lie;
    lie.events++;
    return flags == cudaEventDisableTiming ? cudaSuccess : cudaErrorInvalidValue;
}
bool an_cuda_wgmma_check(char *why, size_t size)
{
    __builtin_snprintf(why, size, "2 of 5 products differ");
    return lie.wgmma;
}
static cudaError_t lie_event_end(cudaEvent_t e)
{
    lie.events -= e != NULL;
    return cudaSuccess;
}

#include "kernels/cuda/device.c"
#include "test.h"

/* A machine where all is well; the tests break one thing each. */
static void well(void)
{
    memset(&lie, 0, sizeof lie);
    lie.devices = 2;
    lie.driver = lie.runtime = 13000;
    lie.major = 9;
    lie.wgmma = true;
}

static void refused(const char *which, an_status status, const char *text, const char *more)
{
    an_device d = {0};
    an_error err = {0};
    an_status s = an_cuda_open(&d, which, &err);
    CHECK_MSG(s == status && !d.gpu, "%s: %s", which, an_status_name(s));
    CHECK_MSG(strstr(err.message, text) && strstr(err.message, more), "%s: %s", which, err.message);
    CHECK(lie.streams == 0 && lie.events == 0 && lie.pinned == 0);
}

TEST(no_driver)
{
    well();
    lie.count = cudaErrorInsufficientDriver;
    lie.devices = lie.driver = 0;
    refused("cuda", AN_DEVICE, "no NVIDIA driver is installed", "CUDA 13.0 or later is needed");
}

TEST(an_old_driver)
{
    well();
    lie.count = cudaErrorInsufficientDriver;
    lie.driver = 11080;
    refused("cuda", AN_DEVICE, "the NVIDIA driver is for CUDA 11.8", "13.0 or later is needed");
}

TEST(no_device)
{
    well();
    lie.count = cudaErrorNoDevice;
    unsetenv("CUDA_VISIBLE_DEVICES");
    refused("cuda", AN_DEVICE, "this machine has no NVIDIA GPU", "");
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    refused("cuda:0", AN_DEVICE, "CUDA_VISIBLE_DEVICES is ''", "unset it");
    setenv("CUDA_VISIBLE_DEVICES", "7", 1);
    refused("cuda", AN_DEVICE, "CUDA_VISIBLE_DEVICES is '7'", "no GPU is visible");
    unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST(a_number_that_does_not_exist)
{
    well();
    refused("cuda:2", AN_DEVICE, "'cuda:2': there are 2 GPUs", "the last is cuda:1");
    lie.devices = 1;
    refused("cuda:1", AN_DEVICE, "there is 1 GPU,", "the last is cuda:0");
    static const char *const odd[] = {"cuda:",   "cuda:-1",   "cuda:1x",
                                      "cuda: 1", "cuda:9999", "cuda:99999999999999999999"};
    for (int i = 0; i < 6; i++) refused(odd[i], AN_INVALID, "the number of a GPU", odd[i]);
}

TEST(an_old_gpu)
{
    well();
    lie.major = 7, lie.minor = 5;
    refused("cuda:1", AN_DEVICE, "cuda:1 is a NVIDIA Thing 1 of compute capability 7.5",
            "8.0 or later is needed");
}

TEST(a_broken_gpu)
{
    well();
    lie.set = cudaErrorECCUncorrectable;
    refused("cuda", AN_DEVICE, "choosing the GPU", "ECC error");
    well();
    lie.count = cudaErrorUnknown;
    refused("cuda", AN_DEVICE, "looking for GPUs", "cudaErrorECC");
    well();
    lie.alloc = cudaErrorMemoryAllocation;
    refused("cuda:1", AN_NO_MEMORY, "pinned memory for uploads", "out of memory");
}

TEST(all_is_well)
{
    well();
    an_device d = {0};
    an_error err = {0};
    REQUIRE(an_cuda_open(&d, "cuda:0", &err) == AN_OK);
    CHECK(lie.current == 0 && d.memory_bytes == (size_t)80 << 30);
    CHECK_STR(d.description, "cuda:0: NVIDIA Thing 0, compute capability 9.0, 132 multiprocessors, "
                             "80.0 GiB; products by wgmma");
    an_device other = {0};
    REQUIRE(an_cuda_open(&other, "cuda:1", &err) == AN_OK);
    CHECK(lie.current == 1);
    CHECK(an_cuda_enter(&d, &err) == AN_OK && lie.current == 0);
    an_cuda_close(&other);
    CHECK(an_cuda_enter(&d, &err) == AN_OK && lie.current == 0);
    an_cuda_close(&d);
    CHECK(!d.gpu && lie.streams == 0 && lie.events == 0 && lie.pinned == 0);
}

/* wgmma is of compute capability 9.0 alone, and must be right there. */
TEST(products_by_wgmma)
{
    static const struct {
        int major, minor;
        bool right, chosen;
        const char *end;
    } cases[] = {
        {9, 0, true, true, "80.0 GiB; products by wgmma"},
        {9, 0, false, false,
         "80.0 GiB; products by mma.sync, since wgmma failed its test: 2 of 5 products differ"},
        {8, 0, true, false, "80.0 GiB"},
        {8, 9, true, false, "80.0 GiB"},
        {10, 0, true, false, "80.0 GiB"},
    };
    for (int i = 0; i < 5; i++) {
        well();
        lie.major = cases[i].major, lie.minor = cases[i].minor, lie.wgmma = cases[i].right;
        an_device d = {0};
        an_error err = {0};
        REQUIRE(an_cuda_open(&d, "cuda", &err) == AN_OK);
        CHECK(an_cuda_device_of(&d)->wgmma == cases[i].chosen);
        const char *end = strstr(d.description, "80.0 GiB");
        CHECK_STR(end ? end : d.description, cases[i].end);
        an_cuda_close(&d);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
