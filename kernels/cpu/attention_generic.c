/* attention_generic.c: attention for x86-64-v2, and for any other machine the compiler has 16-byte
 * vectors for. */
#define KERNEL      an_attention_generic
#define KERNEL_NAME "generic"
#define AN_VW       16
#define MR          4
#define PAIRS       0
#include "attention_impl.h"
