/* chat.c: `anneal chat`: a conversation in a terminal, or one question from the command line or a
 * pipe. The engine runs in this process. Ctrl-C stops the answer, Ctrl-D ends. */
#include "text.h"

#include <errno.h>
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
    bool json;  /* each answer is a line of JSON, and alone on standard output */
    FILE *talk; /* where what is no answer goes: prompts, help */
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
    bool ok = c->json ? cli_text_json(c->options, c->engine, TEXT_CHAT, body, &answer)
                      : cli_text_print(c->options, c->engine, TEXT_CHAT, body, &answer);
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
 * waiting: one that came between a look at the flag and a blocking read would be seen a line late.
 */
static bool line_is_there(void)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    sigset_t closed, open;
    sigemptyset(&closed);
    sigaddset(&closed, SIGINT);
    pthread_sigmask(SIG_BLOCK, &closed, &open);
    while (!cli_interrupted && ppoll(&in, 1, NULL, &open) < 0 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &open, NULL);
    bool there = !cli_interrupted;
    cli_interrupted = 0;
    return there;
}

/* A line, with those it continues in; NULL at the end of input. Ctrl-C gives "". */
static char *read_turn(FILE *talk)
{
    an_buf b;
    char *line = NULL;
    size_t cap = 0;
    an_buf_init(&b, (size_t)16 << 20);
    for (bool more = true; more;) {
        fputs(b.len ? ". " : "> ", talk);
        fflush(talk);
        if (!line_is_there()) {
            fputc('\n', talk);
            an_buf_free(&b);
            break;
        }
        ssize_t n =
            getline(&line, &cap, stdin); /* a terminal gives one line a read: none is held */
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
    fputs("anneal chat: /help tells more\n", c->talk);
    for (char *text; (text = read_turn(c->talk)) != NULL; free(text)) {
        if (!*text) continue;
        if (strcmp(text, "/clear") == 0) {
            clear(c);
        } else if (*text == '/' && text[1] >= 'a' && text[1] <= 'z' && !strchr(text + 1, '/') &&
                   !strchr(text, ' ')) {
            fputs(HELP, c->talk);
        } else {
            ask(c, text);
            if (!c->json) putchar('\n');
        }
    }
    fputc('\n', c->talk);
    return CLI_OK;
}

static int answer_one(chat *c, const char *question)
{
    if (!*question) {
        fprintf(stderr, "anneal: nothing was asked\n");
        return CLI_FAILED;
    }
    if (!ask(c, question)) return CLI_FAILED;
    if (!c->json) putchar('\n');
    return CLI_OK;
}

static int answer_pipe(chat *c)
{
    an_buf b;
    char part[4096];
    size_t n;
    an_buf_init(&b, (size_t)64 << 20);
    while ((n = fread(part, 1, sizeof part, stdin)) > 0) an_buf_add(&b, part, n);
    while (b.len && (b.data[b.len - 1] == '\n' || b.data[b.len - 1] == '\r'))
        b.data[--b.len] = '\0';
    int rc = CLI_FAILED;
    if (b.failed)
        fprintf(stderr, "anneal: too much input\n");
    else if (b.len && strlen(b.data) < b.len)
        fprintf(stderr, "anneal: that is no text: byte %zu is 0\n", strlen(b.data) + 1);
    else
        rc = answer_one(c, b.len ? b.data : "");
    an_buf_free(&b);
    return rc;
}

/* ---------------------------------------------------------------- command */

static bool add_whole(json_t *settings, const char *name, const char *flag, const char *text,
                      int min, int max)
{
    int v = 0;
    if (!text) return true;
    if (!cli_int(flag, text, min, max, &v)) return false;
    json_object_set_new(settings, name, json_integer(v));
    return true;
}

static bool add_seed(json_t *settings, const char *text)
{
    int64_t v = 0;
    if (!text) return true;
    if (!cli_seed("--seed", text, &v)) return false;
    json_object_set_new(settings, "seed", json_integer(v));
    return true;
}

/* JSON takes nothing else; what it did not take would be missing without a word. */
static bool is_utf8(const char *flag, const char *text)
{
    if (!text || an_utf8_valid(text, strlen(text))) return true;
    fprintf(stderr, "anneal: %s: that is not UTF-8\n", flag);
    return false;
}

static bool add_number(json_t *settings, const char *name, const char *flag, const char *text,
                       double min, double max)
{
    double v = 0;
    if (!text) return true;
    if (!cli_number(flag, text, min, max, &v)) return false;
    json_object_set_new(settings, name, json_real(v));
    return true;
}

static int run(const an_options *o, chat *c, const char *question)
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
    if (question) {
        rc = answer_one(c, question);
    } else if (isatty(STDIN_FILENO)) {
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

typedef struct chat_ask {
    const char *model, *system, *temperature, *top_p, *top_k, *max_tokens, *seed;
    bool json;
} chat_ask;

static int cmd_chat(int argc, char **argv)
{
    int rc = 0;
    an_options o;
    const char *question = NULL;
    chat_ask a = {0};
    if (!cli_parse(&cli_chat, argc, argv, &a, &o, &question, &rc)) return rc;
    chat c = {.options = &o,
              .model = a.model,
              .system = a.system,
              .json = a.json,
              .talk = a.json ? stderr : stdout,
              .messages = json_array(),
              .settings = json_object()};
    if (!is_utf8("--model", a.model) || !is_utf8("--system", a.system) ||
        !add_number(c.settings, "temperature", "--temperature", a.temperature, 0, 100) ||
        !add_number(c.settings, "top_p", "--top-p", a.top_p, 0, 1) ||
        !add_whole(c.settings, "top_k", "--top-k", a.top_k, 0, 1000000000) ||
        !add_whole(c.settings, "max_tokens", "--answer-tokens", a.max_tokens, 1,
                   o.engine.max_tokens) ||
        !add_seed(c.settings, a.seed)) {
        rc = CLI_USAGE;
    } else {
        an_log_set_level(AN_LOG_WARN);
        cli_default_models(&o);
        rc = run(&o, &c, question);
    }
    json_decref(c.messages);
    json_decref(c.settings);
    an_options_free(&o);
    return rc;
}

#define AT(field) offsetof(chat_ask, field)
static const cli_flag flags[] = {
    {"--model", "-m", "MODEL", CLI_TEXT, AT(model), "model id [the first that writes text]"},
    {"--system", NULL, "TEXT", CLI_TEXT, AT(system),
     "what the model is told before the conversation"},
    {"--temperature", "-t", "X", CLI_TEXT, AT(temperature),
     "0 = always the likeliest [the model's]"},
    {"--top-p", NULL, "X", CLI_TEXT, AT(top_p), "0 to 1 [the model's]"},
    {"--top-k", NULL, "N", CLI_TEXT, AT(top_k), "0 = all [the model's]"},
    {"--answer-tokens", "-n", "N", CLI_TEXT, AT(max_tokens),
     "longest answer [as the context allows]"},
    {"--seed", NULL, "N", CLI_TEXT, AT(seed), "same seed, same answer [random]"},
    {"--json", NULL, NULL, CLI_SWITCH, AT(json),
     "for machines: each answer is a line, as /v1/chat/completions answers"},
    CLI_END};
const cli_command cli_chat = {"chat",
                              cmd_chat,
                              "talk to a language model, in a terminal or through a pipe",
                              "[QUESTION] [-m MODEL] [--system TEXT] [options]",
                              "A conversation in a terminal: Ctrl-C stops an answer, Ctrl-D ends. "
                              "Or one question: anneal chat QUESTION, or from a pipe: echo "
                              "QUESTION | anneal chat. With --json standard output has the "
                              "answers alone; an answer that Ctrl-C stopped is none.",
                              "QUESTION",
                              flags,
                              true};
