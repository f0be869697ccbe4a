/* paged_generic.c: paged attention for machines without anything better. */
#define KERNEL      an_paged_generic
#define KERNEL_NAME "generic"
#define AN_VW       16
#include "paged_impl.h"
