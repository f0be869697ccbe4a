/* sanitize.h: what the sanitizers must be told. With ThreadSanitizer every CUDA thread is a fiber
 * of its own in its eyes, a switch orders nothing, and only barriers are happens-before edges: so a
 * missing one is a reported race, whatever order the threads ran in. Kernels are then compiled with
 * -fsanitize=thread, kernels/simt without it but with SIMT_TSAN defined. */
#ifndef SIMT_SANITIZE_H
#define SIMT_SANITIZE_H

#include "simt.h"

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIMT_POISON(p, n)   __asan_poison_memory_region(p, n)
#define SIMT_UNPOISON(p, n) __asan_unpoison_memory_region(p, n)
#else
#define SIMT_POISON(p, n)   ((void)0)
#define SIMT_UNPOISON(p, n) ((void)0)
#endif

#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void __tsan_read_range(void *p, unsigned long bytes);
void __tsan_write_range(void *p, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#define SIMT_READS(p, n)  __tsan_read_range((void *)(p), n)
#define SIMT_WRITES(p, n) __tsan_write_range((void *)(p), n)
#define SIMT_RELEASE(p)   __tsan_release(p)
#define SIMT_ACQUIRE(p)   __tsan_acquire(p)
/* Around what libc's intercepted functions do for the emulator itself. */
#define SIMT_IGNORE_BEGIN()                                                                        \
    (AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__))
#define SIMT_IGNORE_END()                                                                          \
    (AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__))
#else
#define SIMT_READS(p, n)    ((void)0)
#define SIMT_WRITES(p, n)   ((void)0)
#define SIMT_RELEASE(p)     ((void)0)
#define SIMT_ACQUIRE(p)     ((void)0)
#define SIMT_IGNORE_BEGIN() ((void)0)
#define SIMT_IGNORE_END()   ((void)0)
#endif

#endif
