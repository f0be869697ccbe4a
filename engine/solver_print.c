/* solver_print.c: a schedule for people and programs (anneal schedule). */
#include "solver_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The shortest of %.15g, %.16g and %.17g that reads back as v. */
static void add_number(an_buf *out, double v)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    an_buf_str(out, text);
}

static void add_list(an_buf *out, const char *key, const double *v, int count)
{
    an_buf_printf(out, "\"%s\":[", key);
    for (int i = 0; i < count; i++) {
        if (i) an_buf_str(out, ",");
        add_number(out, v[i]);
    }
    an_buf_str(out, "]");
}

an_status an_schedule_json(const an_solver *s, an_buf *out)
{
    an_buf_str(out, "{");
    add_list(out, "timesteps", s->timesteps, s->calls);
    an_buf_str(out, ",");
    add_list(out, "sigmas", s->sigmas, s->sigma_count);
    an_buf_str(out, "}");
    return out->failed ? AN_NO_MEMORY : AN_OK;
}

/* ---------------------------------------------------------------- the curve */

/* The noise level before call i, and after the last for i = calls. */
static double level_before(const an_solver *s, int i)
{
    if (i > 0) return s->table[i - 1].sigma_next;
    if (s->s) return s->s[0];
    double a = solver_alpha(s, (int)s->timesteps[0]);
    return sqrt((1.0 - a) / a);
}

/* Highest finite level: with zero terminal SNR the first one is infinite and drawn at the top. */
static double highest_level(const an_solver *s)
{
    double top = 0.0;
    for (int i = 0; i <= s->calls; i++) {
        double v = level_before(s, i);
        if (isfinite(v) && v > top) top = v;
    }
    return top;
}

/* The level at a point of the horizontal axis (0 .. calls), straight between the calls. */
static double level_along(const an_solver *s, double at, double top)
{
    int i = (int)at;
    if (i >= s->calls) i = s->calls - 1;
    double a = fmin(level_before(s, i), top), b = fmin(level_before(s, i + 1), top);
    return a + (b - a) * (at - i);
}

/* A braille cell is 2 dots wide and 4 high; the bit of each dot, by column and row. */
static const unsigned char dot_bit[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};

static void add_braille(an_buf *out, unsigned bits)
{
    const char utf8[3] = {(char)0xe2, (char)(0xa0 | bits >> 6), (char)(0x80 | (bits & 0x3f))};
    an_buf_add(out, utf8, sizeof utf8);
}

/* The curve's dots from its height at one column to that at the next, so that it has no gaps. */
static void plot(const an_solver *s, unsigned char *cells, int width, int height, double top)
{
    int dots = 2 * width, last = 4 * height - 1, before = -1;
    for (int x = 0; x < dots; x++) {
        double v = level_along(s, (double)x * s->calls / (dots - 1), top);
        int y = last - (int)lrint(v / top * last);
        int from = before < 0 ? y : before < y ? before + 1 : y;
        int to = before > y ? before - 1 : y;
        for (int k = from; k <= to; k++) cells[k / 4 * width + x / 2] |= dot_bit[x % 2][k % 4];
        before = y;
    }
}

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

an_status an_schedule_draw(const an_solver *s, int cols, int rows, an_buf *out)
{
    enum { MARGIN = 9 };
    int width = clamp(cols, 30, 400) - MARGIN, height = clamp(rows, 6, 100) - 3;
    unsigned char *cells = calloc((size_t)width * (size_t)height, 1);
    if (!cells) return AN_NO_MEMORY;
    double top = highest_level(s);
    if (!(top > 0.0)) top = 1.0;
    plot(s, cells, width, height, top);
    an_buf_printf(out, "%s, %d steps, %d calls of the network\n", an_solver_class(s), s->steps,
                  s->calls);
    for (int y = 0; y < height; y++) {
        if (y == 0)
            an_buf_printf(out, "%7.3g ", top);
        else
            an_buf_str(out, y == height - 1 ? "      0 " : "        ");
        an_buf_str(out, "\xe2\x94\x82"); /* a vertical line */
        for (int x = 0; x < width; x++) add_braille(out, cells[y * width + x]);
        an_buf_str(out, "\n");
    }
    an_buf_str(out, "  sigma \xe2\x94\x94"); /* the corner and the axis */
    for (int x = 0; x < width; x++) an_buf_str(out, "\xe2\x94\x80");
    char first[32], final[32];
    int used = snprintf(first, sizeof first, "timestep %.6g", s->timesteps[0]);
    snprintf(final, sizeof final, "%.6g", s->timesteps[s->calls - 1]);
    an_buf_printf(out, "\n%*s%s%*s\n", MARGIN, "", first, clamp(width - used, 1, 400), final);
    free(cells);
    return out->failed ? AN_NO_MEMORY : AN_OK;
}
