/* bench_roofline.h: `anneal bench --roofline`: what every op of a tick costs and the least time
 * that a GPU of given limits needs for it. Private to server/cli. */
#ifndef ANNEAL_CLI_BENCH_ROOFLINE_H
#define ANNEAL_CLI_BENCH_ROOFLINE_H

#include "cli.h"

typedef struct roofline_ask {
    const char *model; /* a folder or file */
    bool made_up;      /* the folder has configs alone */
    bool json;
    int width, height; /* 0 = the model's */
    const int *rows;   /* pictures: rows that denoise at once; texts: sequences that decode */
    int n_rows;
    int context;                   /* texts: tokens before the newest */
    double peak_flops, peak_bytes; /* of the GPU that is asked about, a second */
} roofline_ask;

/* On o's device; "auto" is simt, dry: everything is launched, nothing is computed, so that the
 * launches are the real ones and a model may be larger than this machine. */
an_status bench_roofline(const roofline_ask *a, const an_options *o, an_error *err);

#endif
