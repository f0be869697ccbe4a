/* manual.c: --help of every command, and the man page, out of the same tables. */
#include "manual.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const char EXIT_CODES[] =
    "0 done, 1 failed (the reason is on standard error), 2 wrong usage, 130 stopped by Ctrl-C, 143 "
    "by SIGTERM. `anneal serve` finishes what runs on either signal and returns 0.";

static const char SERVE_TOO[] =
    "Options of `anneal serve` about devices, models and limits work here too.";

/* "-p, --prompt TEXT" */
static void flag_head(const cli_flag *f, char *buf, size_t size)
{
    snprintf(buf, size, "%s%s%s%s%s", f->alias ? f->alias : "", f->alias ? ", " : "", f->name,
             f->value ? " " : "", f->value ? f->value : "");
}

static void print_line(an_buf *b, const char *head, const char *help)
{
    const int indent = 31;
    if (strlen(head) > 28)
        an_buf_printf(b, "  %s\n%*s", head, indent, "");
    else
        an_buf_printf(b, "  %-28s ", head);
    an_wrap(b, help, indent, 69);
}

static void command_help(const cli_command *c, an_buf *b)
{
    char head[96];
    an_buf_printf(b, "usage: anneal %s %s\n\n", c->name, c->synopsis);
    an_wrap(b, c->about ? c->about : c->summary, 0, 98);
    if (c->flags) an_buf_str(b, "\n");
    for (const cli_flag *f = c->flags; f && f->name; f++) {
        flag_head(f, head, sizeof head);
        print_line(b, head, f->help);
    }
    if (c == &cli_serve)
        an_options_help(b);
    else
        print_line(b, "-h, --help", "this");
    if (c->serve_options && c != &cli_serve) an_buf_printf(b, "\n%s\n", SERVE_TOO);
    an_buf_str(b, "\nExit codes: ");
    an_wrap(b, EXIT_CODES, 0, 86);
}

void cli_print_help(const cli_command *c)
{
    an_buf b;
    an_buf_init(&b, 1 << 20);
    command_help(c, &b);
    fputs(b.data ? b.data : "", stdout);
    an_buf_free(&b);
}

void manual_overview(FILE *to)
{
    fprintf(to,
            "anneal %s: one server for everybody's pictures and text\n\nusage: anneal COMMAND "
            "[options]\n\n",
            AN_VERSION);
    for (int i = 0; cli_commands[i]; i++)
        fprintf(to, "  %-12s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    fprintf(to, "\n`anneal help COMMAND` (or `anneal COMMAND --help`) is the manual of each; "
                "`anneal --version` tells the version.\nNormally:  anneal serve\n");
}

/* ---------------------------------------------------------------- the man page */

/* Text as roff reads it: backslashes, hyphens that are typed, and dots or quotes that begin a line.
 */
static void roff(an_buf *b, const char *text)
{
    bool begins = !b->len || b->data[b->len - 1] == '\n';
    for (const char *p = text; *p; p++) {
        if (begins && (*p == '.' || *p == '\'')) an_buf_str(b, "\\&");
        begins = *p == '\n';
        if (*p == '\\')
            an_buf_str(b, "\\e");
        else if (*p == '-')
            an_buf_str(b, "\\-");
        else if (*p == '`' || *p == '~' || *p == '^')
            an_buf_str(b, *p == '`' ? "\\(ga" : *p == '~' ? "\\(ti" : "\\(ha");
        else if (*p == '\'')
            an_buf_str(b, "\\(aq");
        else
            an_buf_add(b, p, 1);
    }
}

/* A line of roff, made of a macro and its text. */
static void macro(an_buf *b, const char *name, const char *text)
{
    an_buf_printf(b, "%s ", name);
    roff(b, text);
    an_buf_str(b, "\n");
}

static void paragraph(an_buf *b, const char *text)
{
    an_buf lines;
    an_buf_init(&lines, 1 << 16);
    an_wrap(&lines, text, 0, 64);
    roff(b, lines.data ? lines.data : "");
    an_buf_free(&lines);
}

/* "--prompt" bold, its value in italics. */
static void man_flag(an_buf *b, const char *alias, const char *name, const char *value)
{
    an_buf_str(b, ".TP\n");
    if (alias) {
        an_buf_str(b, "\\fB");
        roff(b, alias);
        an_buf_str(b, "\\fR, ");
    }
    an_buf_str(b, "\\fB");
    roff(b, name);
    an_buf_str(b, "\\fR");
    if (value) {
        an_buf_str(b, " \\fI");
        roff(b, value);
        an_buf_str(b, "\\fR");
    }
    an_buf_str(b, "\n");
}

static void man_command(an_buf *b, const cli_command *c)
{
    macro(b, ".SS", c->name);
    an_buf_printf(b, "\\fBanneal %s\\fR ", c->name);
    paragraph(b, c->synopsis);
    an_buf_str(b, ".PP\n");
    paragraph(b, c->about ? c->about : c->summary);
    for (const cli_flag *f = c->flags; f && f->name; f++) {
        man_flag(b, f->alias, f->name, f->value);
        paragraph(b, f->help);
    }
    if (c == &cli_serve) {
        an_buf_str(b, ".PP\nIts options have a section of their own below.\n");
    } else if (c->serve_options) {
        an_buf_str(b, ".PP\n");
        paragraph(b, SERVE_TOO);
    }
}

static void man_serve_options(an_buf *b)
{
    an_option_info o;
    an_buf_str(b, ".SH OPTIONS OF ANNEAL SERVE\nEvery option is also an environment variable:\n"
                  "\\-\\-max\\-queue is ANNEAL_MAX_QUEUE.\nThe command line comes first.\n");
    for (size_t i = 0; an_options_at(i, &o); i++) {
        if (o.section) {
            macro(b, ".SS", o.section);
            continue;
        }
        man_flag(b, NULL, o.flag, o.value);
        paragraph(b, o.help);
        if (!*o.initial) continue;
        an_buf_str(b, "[");
        roff(b, o.initial);
        an_buf_str(b, "]\n");
    }
}

static void man_end(an_buf *b)
{
    an_option_info o;
    an_buf_str(b, ".SH EXIT STATUS\n");
    paragraph(b, EXIT_CODES);
    an_buf_str(b, ".SH ENVIRONMENT\n");
    for (size_t i = 0; an_options_at(i, &o); i++) {
        if (!o.flag) continue;
        man_flag(b, NULL, o.env, NULL);
        paragraph(b, o.flag);
    }
    static const char *const others[][2] = {
        {"ANNEAL_DATA", "folder of the shipped models and vocabularies, where it is not beside the "
                        "program"},
        {"HF_TOKEN, HF_ENDPOINT, SSL_CERT_FILE, https_proxy, no_proxy",
         "anneal pull: who asks, which hub, whose certificates are trusted, by which way"},
        {"XDG_CACHE_HOME", "its anneal/models is looked for models [~/.cache]"},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        man_flag(b, NULL, others[i][0], NULL);
        paragraph(b, others[i][1]);
    }
    an_buf_str(b, ".SH FILES\n.TP\n\\fI~/.cache/anneal/models\\fR\n");
    paragraph(b, "models that are served without --models, beside the shipped one");
    an_buf_str(b, ".SH EXAMPLES\n.nf\n");
    roff(b, "anneal serve --models /srv/models\n"
            "anneal generate -p \"red apple on a blue background\" -o apple.png\n"
            "echo \"Why is the sky blue?\" | anneal chat\n"
            "anneal models --json | jq -r '.data[].id'\n");
    an_buf_str(b, ".fi\n");
}

void manual_page(an_buf *b)
{
    const char *epoch =
        getenv("SOURCE_DATE_EPOCH"); /* reproducible-builds.org: the same page again */
    const time_t now = epoch && *epoch ? (time_t)strtoll(epoch, NULL, 10) : time(NULL);
    struct tm day = {0};
    char date[16] = "";
    if (gmtime_r(&now, &day)) strftime(date, sizeof date, "%Y-%m-%d", &day);
    an_buf_printf(b,
                  ".\\\" Made by `anneal help --man`.\n"
                  ".TH ANNEAL 1 \"%s\" \"anneal %s\" \"User Commands\"\n",
                  date, AN_VERSION);
    an_buf_str(b, ".SH NAME\nanneal \\- one server for pictures and text\n.SH SYNOPSIS\n"
                  "\\fBanneal\\fR \\fICOMMAND\\fR [\\fIoptions\\fR]\n.br\n\\fBanneal help\\fR "
                  "[\\fICOMMAND\\fR]\n.br\n\\fBanneal \\-\\-version\\fR\n.SH DESCRIPTION\n");
    paragraph(b,
              "Makes pictures (diffusion models) and text (language models) for everybody at once "
              "from one GPU or CPU: requests of all users advance together, and each gets the same "
              "bytes as if it were alone.");
    an_buf_str(b, ".SH COMMANDS\n");
    for (int i = 0; cli_commands[i]; i++) man_command(b, cli_commands[i]);
    man_serve_options(b);
    man_end(b);
}
