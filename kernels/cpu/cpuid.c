/* cpuid.c: instruction sets, asked of the processor (cpuid), of the operating system (xgetbv says
 * which registers it saves) and, for the AMX tiles, of the kernel's permission. */
#include "cpu/cpuid.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA  18

static uint64_t saved_registers(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool all(uint32_t have, uint32_t want)
{
    return (have & want) == want;
}

an_isa an_cpu_detect(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return AN_ISA_GENERIC;
    /* FMA, OSXSAVE, AVX, F16C */
    if (!all(c, 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29)) return AN_ISA_GENERIC;
    uint64_t regs = saved_registers();
    if ((regs & 0x6) != 0x6) return AN_ISA_GENERIC;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return AN_ISA_GENERIC;
    if (!all(b, 1u << 5)) return AN_ISA_GENERIC;
    uint32_t amx = d;
    /* AVX512 F, DQ, BW, VL, and opmask, upper ZMM0-15, ZMM16-31 saved */
    if (!all(b, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) || (regs & 0xe6) != 0xe6)
        return AN_ISA_AVX2;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !all(a, 1u << 5)) return AN_ISA_AVX512;
    /* AMX-BF16, AMX-TILE; tile configuration and data saved */
    if (!all(amx, 1u << 22 | 1u << 24) || (regs & 0x60000) != 0x60000) return AN_ISA_BF16;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)) return AN_ISA_BF16;
    return AN_ISA_AMX;
}
bool an_cpu_vnni(void)
{
    uint32_t a, b, c, d;
    return an_cpu_detect() >= AN_ISA_AVX512 && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           all(c, 1u << 11);
}
bool an_cpu_amx_int8(void)
{
    uint32_t a, b, c, d;
    return an_cpu_detect() >= AN_ISA_AMX && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           all(d, 1u << 25);
}
#else
bool an_cpu_vnni(void)
{
    return false;
}
bool an_cpu_amx_int8(void)
{
    return false;
}

an_isa an_cpu_detect(void)
{
    return AN_ISA_GENERIC;
}
#endif

const char *an_isa_name(an_isa isa)
{
    static const char *const names[] = {"generic", "avx2", "avx512", "avx512_bf16", "amx"};
    return names[isa];
}
