/* bar.c: see bar.h. */
#include "bar.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_WIDTH 32

bool bar_wanted(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

/* As the C library finds the locale's charset, without changing the program's locale. */
static bool speaks_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int i = 0; i < 3; i++) {
        const char *v = getenv(names[i]);
        if (v && *v) return strstr(v, "UTF-8") || strstr(v, "utf8") || strstr(v, "UTF8");
    }
    return false;
}

void bar_draw(double done, const char *fmt, ...)
{
    char text[256];
    struct winsize size = {0};
    const char *full = speaks_utf8() ? "\u2588" : "#", *empty = speaks_utf8() ? "\u2591" : "-";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
    const int columns = size.ws_col ? size.ws_col : 80;
    const int width = columns >= 60 ? BAR_WIDTH : 0, room = columns - width - 6;
    fputs("\r\033[K", stderr);
    if (width) {
        fputs("  [", stderr);
        for (int i = 0; i < width; i++) fputs(i < done * width ? full : empty, stderr);
        fputs("] ", stderr);
    }
    fprintf(stderr, "%.*s", room > 0 ? room : 1, text);
    fflush(stderr);
}

void bar_end(void)
{
    fputc('\n', stderr);
}

void bar_clear(void)
{
    fputs("\r\033[K", stderr);
}
