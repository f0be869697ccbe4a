/* ledger.cc: what was launched, for who asks with launches=FILE: a line for every kernel and shape
 * of launch, written when the process ends. kernels/bench/occupancy.py reads it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "runtime.h"

namespace simt
{

enum { LINES_MOST = 4096 };

struct Line {
    Launch launch; /* the first of its kind */
    uint64_t times, conflicts;
};
static Line *lines;
static int n_lines;
static uint64_t left_out;

static bool same(const Launch *a, const Launch *b)
{
    return a->kernel == b->kernel && a->dyn_bytes == b->dyn_bytes &&
           memcmp(&a->grid, &b->grid, sizeof a->grid) == 0 &&
           memcmp(&a->block, &b->block, sizeof a->block) == 0;
}

/* "const char* simt::name_of() [with auto K = tile_gemm<tile<64, 64> >]", or clang's "[K = &...]",
 * without all but the kernel's own. */
static void print_name(const char *sentence, FILE *f)
{
    const char *from = strstr(sentence, "K = ");
    from = from ? from + 4 : sentence;
    from += *from == '&';
    size_t n = strlen(from);
    if (n && from[n - 1] == ']') n--;
    fprintf(f, "%.*s", (int)n, from);
}

static void write_out(void)
{
    FILE *f = fopen(options.launches, "w");
    if (!f) {
        fprintf(stderr, "ANNEAL_SIMT: launches=%s: %s\n", options.launches, strerror(errno));
        return;
    }
    fprintf(f, "launches\tthreads\tshared\tblocks\tconflicts\tkernel\n");
    for (int i = 0; i < n_lines; i++) {
        const Launch *l = &lines[i].launch;
        fprintf(f, "%llu\t%u\t%zu\t%llu\t%llu\t", (unsigned long long)lines[i].times,
                l->block.x * l->block.y * l->block.z, l->dyn_bytes,
                (unsigned long long)l->grid.x * l->grid.y * l->grid.z,
                (unsigned long long)lines[i].conflicts);
        print_name(l->name, f);
        fputc('\n', f);
    }
    if (left_out) fprintf(f, "%llu\t0\t0\t0\t0\tothers\n", (unsigned long long)left_out);
    fclose(f);
}

static Line *line_of(const Launch *l)
{
    if (!lines) {
        lines = (Line *)calloc(LINES_MOST, sizeof *lines);
        if (!lines) return nullptr;
        atexit(write_out);
    }
    for (int i = 0; i < n_lines; i++)
        if (same(&lines[i].launch, l)) return &lines[i];
    if (n_lines == LINES_MOST) return nullptr;
    lines[n_lines].launch = *l;
    return &lines[n_lines++];
}

void ledger_add(const Launch *l, uint64_t times, uint64_t conflicts)
{
    if (!options.launches[0]) return;
    Line *line = line_of(l);
    if (!line) {
        left_out += times;
        return;
    }
    line->times += times;
    line->conflicts += conflicts;
}

} // namespace simt
