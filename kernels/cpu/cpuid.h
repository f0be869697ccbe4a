/* cpuid.h: which instructions this machine and its kernel grant. */
#ifndef ANNEAL_CPU_CPUID_H
#define ANNEAL_CPU_CPUID_H

#include "backend.h"

/* The widest set the machine has and the operating system saves; for AMX the permission is asked
 * for here, once for the process. */
an_isa an_cpu_detect(void);
bool an_cpu_vnni(void);              /* AVX512_VNNI, where there is AVX-512 at all */
bool an_cpu_amx_int8(void);          /* AMX_INT8, where there is AMX at all */
const char *an_isa_name(an_isa isa); /* "generic", "avx2", "avx512", "avx512_bf16", "amx" */

#endif
