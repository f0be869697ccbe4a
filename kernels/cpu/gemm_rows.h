/* gemm_rows.h: what tiles whose accumulators must become registers are written with: every loop over
 * them unrolled, and a case for each number of rows below MR, which the including file has defined
 * (6 or 14). */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if MR == 6
#define FEWER_ROWS(X) X(1) X(2) X(3) X(4) X(5)
#elif MR == 14
#define FEWER_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13)
#else
#error "a case for each number of rows below MR"
#endif
