/* bench_load_plot.c: latency against load as an SVG: a panel for pictures, one for chats, both axes
 * logarithmic. Colours follow the page they are on, light or dark. */
#include "bench_load.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define WIDTH  720
#define PANEL  300 /* height of one, with its title and axis */
#define LEFT   64
#define RIGHT  124 /* room for the names at the lines' ends */
#define TOP    44
#define BOTTOM 46

static const char style[] =
    "<style>\n"
    "svg{color-scheme:light dark;--ink:#1c2733;--soft:#5b6875;--grid:#e3e7eb;--page:#fff;"
    "--first:#b3610a;--total:#1464a5}\n"
    "@media(prefers-color-scheme:dark){svg{--ink:#e8edf2;--soft:#9aa7b4;--grid:#2b3540;"
    "--page:#12181f;--first:#f0a44b;--total:#69b4f2}}\n"
    "text{font:12px system-ui,sans-serif;fill:var(--soft)}\n"
    ".t{font-size:14px;font-weight:600;fill:var(--ink)}\n"
    ".g{stroke:var(--grid)}\n"
    ".l{fill:none;stroke-width:2;stroke-linejoin:round}\n"
    ".p50{opacity:1}.p95{opacity:.75;stroke-dasharray:7 4}.p99{opacity:.6;stroke-dasharray:2 3}\n"
    ".first{stroke:var(--first)}.total{stroke:var(--total)}\n"
    "text.first{fill:var(--first);stroke:none}text.total{fill:var(--total);stroke:none}\n"
    "circle.first{fill:var(--first);stroke:none}circle.total{fill:var(--total);stroke:none}\n"
    "</style>\n";

typedef struct plot {
    FILE *f;
    const load_result *r;
    int n;
    double x0, x1, y0, y1; /* of the data, as logarithms */
    double top;            /* of the panel */
} plot;

static double at_x(const plot *p, double rate)
{
    double w = WIDTH - LEFT - RIGHT;
    return p->x1 > p->x0 ? LEFT + w * (log10(rate) - p->x0) / (p->x1 - p->x0) : LEFT + w / 2;
}

static double at_y(const plot *p, double seconds)
{
    double h = PANEL - TOP - BOTTOM;
    return p->top + PANEL - BOTTOM - h * (log10(seconds) - p->y0) / (p->y1 - p->y0);
}

static const load_samples *samples_of(const load_result *r, load_kind k, int what)
{
    return what ? &r->total[k] : &r->first[k];
}

/* Latencies of all lines of a kind, so that the axis holds them. False if there are none. */
static bool find_range(plot *p, load_kind k)
{
    double low = INFINITY, high = 0;
    for (int i = 0; i < p->n; i++)
        for (int what = 0; what < 2; what++)
            for (int q = 0; q < 3; q++) {
                double v = load_percentile(samples_of(&p->r[i], k, what), load_percentiles[q]);
                if (!(v > 0)) continue;
                if (v < low) low = v;
                if (v > high) high = v;
            }
    if (!(high > 0)) return false;
    p->y0 = log10(low) - 0.05;
    p->y1 = log10(high) + 0.05;
    if (p->y1 - p->y0 <
        0.5) { /* a flat line in the middle rather than noise over the whole height */
        double middle = (p->y0 + p->y1) / 2;
        p->y0 = middle - 0.25;
        p->y1 = middle + 0.25;
    }
    return true;
}

static void print_seconds(FILE *f, double v)
{
    if (v < 0.9995)
        fprintf(f, "%g ms", round(v * 1e6) / 1e3);
    else
        fprintf(f, "%g s", v);
}

static void draw_axes(const plot *p, load_kind k)
{
    static const double steps[] = {1, 2, 5};
    double bottom = p->top + PANEL - BOTTOM;
    fprintf(p->f,
            "<text class='t' x='%d' y='%.0f'>%s: seconds from when a request was due</text>\n",
            LEFT, p->top + 22, k == LOAD_IMAGE ? "Pictures" : "Chats");
    for (int e = (int)floor(p->y0); e <= (int)ceil(p->y1); e++)
        for (int i = 0; i < 3; i++) {
            double v = steps[i] * pow(10, e), y = at_y(p, v);
            if (log10(v) < p->y0 || log10(v) > p->y1) continue;
            fprintf(p->f, "<line class='g' x1='%d' x2='%d' y1='%.1f' y2='%.1f'/>", LEFT,
                    WIDTH - RIGHT, y, y);
            fprintf(p->f, "<text x='%d' y='%.1f' text-anchor='end'>", LEFT - 8, y + 4);
            print_seconds(p->f, v);
            fprintf(p->f, "</text>\n");
        }
    for (int i = 0; i < p->n; i++) {
        double x = at_x(p, p->r[i].rate);
        fprintf(p->f, "<line class='g' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/>", x, x,
                p->top + TOP, bottom);
        fprintf(p->f, "<text x='%.1f' y='%.1f' text-anchor='middle'>%g</text>\n", x, bottom + 16,
                p->r[i].rate);
    }
    fprintf(p->f,
            "<text x='%d' y='%.1f' text-anchor='middle'>requests a second (all kinds)</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, bottom + 34);
}

/* One percentile over the rates; its name at the right end goes to *label (its height). */
static bool draw_line(const plot *p, load_kind k, int what, int q, double *label)
{
    const char *kind = what ? "total" : "first";
    int points = 0;
    for (int i = 0; i < p->n; i++) {
        double v = load_percentile(samples_of(&p->r[i], k, what), load_percentiles[q]);
        if (!(v > 0)) continue;
        double x = at_x(p, p->r[i].rate), y = at_y(p, v);
        if (!points++)
            fprintf(p->f, "<path class='l %s p%d' d='M", kind,
                    (int)(100 * load_percentiles[q] + 0.5));
        fprintf(p->f, "%s%.1f %.1f", points > 1 ? "L" : "", x, y);
        *label = y;
    }
    if (!points) return false;
    fprintf(p->f, "'/>\n");
    for (int i = 0; i < p->n; i++) {
        double v = load_percentile(samples_of(&p->r[i], k, what), load_percentiles[q]);
        if (!(v > 0)) continue;
        fprintf(p->f, "<circle class='%s' cx='%.1f' cy='%.1f' r='3'><title>", kind,
                at_x(p, p->r[i].rate), at_y(p, v));
        fprintf(p->f, "%s p%d at %g/s: ", kind, (int)(100 * load_percentiles[q] + 0.5),
                p->r[i].rate);
        print_seconds(p->f, v);
        fprintf(p->f, "</title></circle>\n");
    }
    return true;
}

typedef struct label {
    double y;
    int what, q;
} label;

static int by_height(const void *a, const void *b)
{
    double x = ((const label *)a)->y, y = ((const label *)b)->y;
    return (x > y) - (x < y);
}

static void draw_panel(const plot *p, load_kind k)
{
    label labels[6];
    int n = 0;
    draw_axes(p, k);
    for (int what = 0; what < 2; what++)
        for (int q = 0; q < 3; q++) {
            labels[n].what = what;
            labels[n].q = q;
            if (draw_line(p, k, what, q, &labels[n].y)) n++;
        }
    qsort(labels, (size_t)n, sizeof *labels, by_height);
    for (int i = 0; i < n; i++) { /* names do not lie on each other */
        if (i && labels[i].y < labels[i - 1].y + 14) labels[i].y = labels[i - 1].y + 14;
        fprintf(p->f, "<text class='%s' x='%d' y='%.1f'>%s p%d</text>\n",
                labels[i].what ? "total" : "first", WIDTH - RIGHT + 10, labels[i].y + 4,
                labels[i].what    ? "total"
                : k == LOAD_IMAGE ? "first preview"
                                  : "first token",
                (int)(100 * load_percentiles[labels[i].q] + 0.5));
    }
}

static void draw(plot *p)
{
    bool any[LOAD_KINDS];
    int panels = 0;
    for (int k = 0; k < LOAD_KINDS; k++) panels += any[k] = find_range(p, (load_kind)k);
    int height = panels ? panels * PANEL : TOP + BOTTOM;
    fprintf(p->f,
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d' "
            "role='img' aria-label='latency against load'>\n%s"
            "<rect width='100%%' height='100%%' style='fill:var(--page)'/>\n",
            WIDTH, height, WIDTH, height, style);
    if (!panels) fprintf(p->f, "<text x='%d' y='%d'>No request was answered.</text>\n", LEFT, TOP);
    for (int k = 0; k < LOAD_KINDS; k++) {
        if (!any[k]) continue;
        find_range(p, (load_kind)k);
        draw_panel(p, (load_kind)k);
        p->top += PANEL;
    }
    fprintf(p->f, "</svg>\n");
}

an_status load_plot(const char *file, const load_result *r, int n, an_error *err)
{
    plot p = {.f = fopen(file, "w"), .r = r, .n = n, .x0 = INFINITY, .x1 = -INFINITY};
    if (!p.f) return an_fail(err, AN_IO, "--svg %s: %s", file, strerror(errno));
    for (int i = 0; i < n; i++) {
        p.x0 = fmin(p.x0, log10(r[i].rate));
        p.x1 = fmax(p.x1, log10(r[i].rate));
    }
    draw(&p);
    bool bad = ferror(p.f) != 0;
    if (fclose(p.f) != 0 || bad) return an_fail(err, AN_IO, "--svg %s: %s", file, strerror(errno));
    return AN_OK;
}
