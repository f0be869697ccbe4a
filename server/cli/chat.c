/* chat.c: `anneal chat`: a conversation in a terminal, or one question from a pipe. The engine runs
 * in this process. Ctrl-C stops the answer, Ctrl-D ends. */
#include "text.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct chat {
    const an_options *options;
    an_engine *engine;
    const char *model, *system;
    json_t *messages;
    json_t *settings; /* temperature and the like, as a request has them */
} chat;

static void add_message(chat *c, const char *role, const char *text)
{
    json_array_append_new(c->messages, json_pack("{s:s,s:s}", "role", role, "content", text));
}

static void clear(chat *c)
{
    json_array_clear(c->messages);
    if (c->system) add_message(c, "system", c->system);
}

/* One turn. What failed or was never answered does not stay in the history. */
static bool ask(chat *c, const char *text)
{
    char *answer = NULL;
    json_t *m = json_pack("{s:s,s:s}", "role", "user", "content", text);
    if (!m) {
        fprintf(stderr, "anneal: that is not UTF-8\n");
        return false;
    }
    json_array_append_new(c->messages, m);
    json_t *body = json_copy(c->settings);
    json_object_set(body, "messages", c->messages);
    if (c->model) json_object_set_new(body, "model", json_string(c->model));
    bool ok = cli_text_print(c->options, c->engine, TEXT_CHAT, body, &answer);
    if (ok && answer)
        add_message(c, "assistant", answer);
    else
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
    free(answer);
    return ok;
}

/* ---------------------------------------------------------------- terminal and pipe */

static const char HELP[] = "  /clear   forget what was said\n"
                           "  /help    this\n"
                           "  Ctrl-C   stops an answer, Ctrl-D ends\n"
                           "  A line that ends in \\ goes on in the next.\n";

/* Waits for a line of the terminal; false if Ctrl-C came instead. The signal is let in only while
 * waiting: one that came between a look at the flag and a blocking read would be seen a line late. */
static bool line_is_there(void)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    sigset_t closed, open;
    sigemptyset(&closed);
    sigaddset(&closed, SIGINT);
    pthread_sigmask(SIG_BLOCK, &closed, &open);
    while (!cli_interrupted && ppoll(&in, 1, NULL, &open) < 0 && errno == EINTR) {}
    pthread_sigmask(SIG_SETMASK, &open, NULL);
    bool there = !cli_interrupted;
    cli_interrupted = 0;
    return there;
}

/* A line, with those it continues in; NULL at the end of input. Ctrl-C gives "". */
static char *read_turn(void)
{
    an_buf b;
    char *line = NULL;
    size_t cap = 0;
    an_buf_init(&b, (size_t)16 << 20);
    for (bool more = true; more;) {
        fputs(b.len ? ". " : "> ", stdout);
        fflush(stdout);
        if (!line_is_there()) {
            putchar('\n');
            an_buf_free(&b);
            break;
        }
        ssize_t n = getline(&line, &cap, stdin); /* a terminal gives one line a read: none is held */
        if (n < 0) {
            free(line);
            an_buf_free(&b);
            return NULL;
        }
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
        more = n > 0 && line[n - 1] == '\\';
        if (more) line[n - 1] = '\n';
        an_buf_add(&b, line, (size_t)n);
    }
    free(line);
    char *text = an_buf_take(&b);
    return text ? text : strdup("");
}

static int converse(chat *c)
{
    printf("%s\n", "anneal chat: /help tells more");
    for (char *text; (text = read_turn()) != NULL; free(text)) {
        if (!*text) continue;
        if (strcmp(text, "/clear") == 0) {
            clear(c);
        } else if (*text == '/' && text[1] >= 'a' && text[1] <= 'z' && !strchr(text + 1, '/') &&
                   !strchr(text, ' ')) {
            fputs(HELP, stdout);
        } else {
            ask(c, text);
            putchar('\n');
        }
    }
    putchar('\n');
    return 0;
}

static int answer_pipe(chat *c)
{
    an_buf b;
    char part[4096];
    size_t n;
    an_buf_init(&b, (size_t)64 << 20);
    while ((n = fread(part, 1, sizeof part, stdin)) > 0) an_buf_add(&b, part, n);
    while (b.len && b.data[b.len - 1] == '\n') b.data[--b.len] = '\0';
    int rc = 1;
    if (b.failed || !b.len)
        fprintf(stderr, "anneal: %s\n", b.failed ? "too much input" : "nothing was asked");
    else
        rc = ask(c, b.data) ? 0 : 1;
    if (rc == 0) putchar('\n');
    an_buf_free(&b);
    return rc;
}

/* ---------------------------------------------------------------- command */

static bool add_number(json_t *settings, const char *name, const char *flag, const char *text,
                       double min, double max)
{
    double v = 0;
    if (!text) return true;
    if (!cli_number(flag, text, min, max, &v)) return false;
    json_object_set_new(settings, name, v == floor(v) ? json_integer((json_int_t)v) : json_real(v));
    return true;
}

static int run(const an_options *o, chat *c)
{
    an_error err = {0};
    sigset_t signals, before;
    /* the engine's threads inherit this: only the main one sees Ctrl-C */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    an_status s = an_engine_new(&o->engine, &c->engine, &err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (s != AN_OK) return cli_fail(&err);
    clear(c);
    int rc;
    if (isatty(STDIN_FILENO)) {
        cli_catch_interrupt();
        rc = converse(c);
    } else {
        rc = answer_pipe(c);
    }
    an_engine_stop(c->engine, 0);
    chat_prompt_clear();
    an_engine_free(c->engine);
    return rc;
}

int cmd_chat(int argc, char **argv)
{
    const char *temperature = NULL, *top_p = NULL, *top_k = NULL, *max_tokens = NULL, *seed = NULL;
    int rc = 0;
    an_options o;
    chat c = {0};
    const cli_flag flags[] = {
        {"--model", "-m", &c.model, NULL, "model id [the first that writes text]"},
        {"--system", NULL, &c.system, NULL, "what the model is told before the conversation"},
        {"--temperature", "-t", &temperature, NULL, "0 = always the likeliest [the model's]"},
        {"--top-p", NULL, &top_p, NULL, "0 to 1 [the model's]"},
        {"--top-k", NULL, &top_k, NULL, "0 = all [the model's]"},
        {"--answer-tokens", "-n", &max_tokens, NULL, "longest answer [as the context allows]"},
        {"--seed", NULL, &seed, NULL, "same seed, same answer [random]"},
        {NULL, NULL, NULL, NULL, NULL}};
    if (!cli_parse(argc, argv, flags,
                   "usage: anneal chat [-m MODEL] [--system TEXT] [options]\n\n"
                   "A conversation in a terminal; or  echo QUESTION | anneal chat",
                   &o, NULL, &rc))
        return rc;
    c.options = &o;
    c.messages = json_array();
    c.settings = json_object();
    if (!add_number(c.settings, "temperature", "--temperature", temperature, 0, 100) ||
        !add_number(c.settings, "top_p", "--top-p", top_p, 0, 1) ||
        !add_number(c.settings, "top_k", "--top-k", top_k, 0, 1e9) ||
        !add_number(c.settings, "max_tokens", "--answer-tokens", max_tokens, 1,
                    o.engine.max_tokens) ||
        !add_number(c.settings, "seed", "--seed", seed, -1, 9007199254740992.0)) {
        rc = 2;
    } else {
        an_log_set_level(AN_LOG_WARN);
        cli_default_models(&o);
        rc = run(&o, &c);
    }
    json_decref(c.messages);
    json_decref(c.settings);
    an_options_free(&o);
    return rc;
}
