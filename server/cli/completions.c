/* completions.c: what bash, zsh and fish need to complete `anneal` commands, out of the tables.
 * What a value may be follows from its name: FILE, DIR, MODEL, COMMAND, or words with | between. */
#include "manual.h"

#include <ctype.h>
#include <stdio.h>

typedef enum { ANYTHING, A_FILE, A_DIR, A_MODEL, A_COMMAND, A_WORD } value_kind;

static value_kind kind_of(const char *value)
{
    if (!value) return ANYTHING;
    if (strncmp(value, "FILE", 4) == 0) return A_FILE;
    if (strcmp(value, "DIR") == 0) return A_DIR;
    if (strcmp(value, "MODEL") == 0) return A_MODEL;
    if (strcmp(value, "COMMAND") == 0) return A_COMMAND;
    return strchr(value, '|') && !isupper((unsigned char)*value) ? A_WORD : ANYTHING;
}

/* "auto|cpu" with spaces between. Our own constant words alone come here: bash expands the words of
 * compgen -W, so that a name from outside would be run. */
static void add_words(an_buf *b, const char *value)
{
    for (; *value; value++) an_buf_add(b, *value == '|' ? " " : value, 1);
}

/* A value of the serve table; --device has more than its short list, which its help tells. */
static const char *serve_value(const an_option_info *o)
{
    return strcmp(o->flag, "--device") == 0 ? "auto|cpu|cuda|simt|ref" : o->value;
}

static void add_commands(an_buf *b)
{
    for (int i = 0; cli_commands[i]; i++)
        an_buf_printf(b, "%s%s", i ? " " : "", cli_commands[i]->name);
}

/* What an A_COMMAND or A_WORD can be, with spaces between. */
static void add_choices(an_buf *b, const char *value)
{
    if (kind_of(value) == A_COMMAND)
        add_commands(b);
    else
        add_words(b, value);
}

/* ---------------------------------------------------------------- bash */

/* One branch of `case $prev`: what the value of these flags is completed with. */
static void bash_value(an_buf *b, const char *pattern, const char *value)
{
    an_buf_printf(b, "    %s) ", pattern);
    switch (kind_of(value)) {
    case A_FILE:
        an_buf_str(b, "_anneal_paths -f");
        break;
    case A_DIR:
        an_buf_str(b, "_anneal_paths -d");
        break;
    case A_MODEL:
        an_buf_str(b, "_anneal_model_ids");
        break;
    case A_COMMAND:
    case A_WORD:
        an_buf_str(b, "_anneal_words '");
        add_choices(b, value);
        an_buf_str(b, "'");
        break;
    case ANYTHING:
        an_buf_str(b, ":");
        break;
    }
    an_buf_str(b, ";;\n");
}

static void bash_command(an_buf *b, const cli_command *c)
{
    char pattern[96];
    an_buf_printf(b, "_anneal_%s()\n{\n    case $prev in\n", c->name);
    for (const cli_flag *f = c->flags; f && f->name; f++) {
        if (!f->value) continue;
        snprintf(pattern, sizeof pattern, "%s%s%s", f->name, f->alias ? "|" : "",
                 f->alias ? f->alias : "");
        bash_value(b, pattern, f->value);
    }
    an_buf_printf(b, "    *)\n        %s\n        case $cur in\n        -*) _anneal_words '",
                  c->serve_options ? "_anneal_serve_value && return" : ":");
    for (const cli_flag *f = c->flags; f && f->name; f++) an_buf_printf(b, "%s ", f->name);
    an_buf_printf(b, "--help'%s;;\n", c->serve_options ? "\" $_anneal_serve_flags\"" : "");
    bash_value(b, "    *", c->operand);
    an_buf_str(b, "        esac;;\n    esac\n}\n");
}

/* Names of models are those of files that anybody may have made: bash must take them for text
 * (compgen -W would run the $(...) of one), and what it puts on the line must be quoted, or Enter
 * runs it. */
static const char bash_models[] =
    "_anneal_model_ids()\n{\n    local id ids quoted\n"
    "    mapfile -t ids < <(anneal models --names 2>/dev/null)\n"
    "    for id in \"${ids[@]}\"; do\n        printf -v quoted %q \"$id\"\n"
    "        if [[ $id == \"$cur\"* || $quoted == \"$cur\"* ]]; then COMPREPLY+=(\"$quoted\"); fi\n"
    "    done\n}\n";

static void bash_script(an_buf *b)
{
    an_option_info o;
    an_buf_str(b, "# Completion of anneal for bash; made by `anneal completions bash`.\n"
                  "_anneal_words() { mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$cur\"); }\n"
                  "_anneal_paths()\n{\n    compopt -o filenames 2>/dev/null\n"
                  "    mapfile -t COMPREPLY < <(compgen \"$1\" -- \"$cur\")\n}\n");
    an_buf_str(b, bash_models);
    an_buf_str(b, "_anneal_serve_flags='");
    for (size_t i = 0; an_options_at(i, &o); i++)
        if (o.flag) an_buf_printf(b, "%s ", o.flag);
    an_buf_str(b, "'\n# Is the word before one of these options? Then its value is completed.\n"
                  "_anneal_serve_value()\n{\n    case $prev in\n");
    for (size_t i = 0; an_options_at(i, &o); i++)
        if (o.flag) bash_value(b, o.flag, serve_value(&o));
    an_buf_str(b, "    *) return 1;;\n    esac\n}\n");
    for (int i = 0; cli_commands[i]; i++) bash_command(b, cli_commands[i]);
    an_buf_str(b, "_anneal()\n{\n"
                  "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
                  "    COMPREPLY=()\n"
                  "    if [ \"$cur\" = = ]; then # --flag=: bash cuts words at =\n        cur=\n"
                  "    elif [ \"$prev\" = = ] && [ \"$COMP_CWORD\" -gt 2 ]; then\n"
                  "        prev=${COMP_WORDS[COMP_CWORD - 2]}\n    fi\n"
                  "    if [ \"$COMP_CWORD\" = 1 ]; then\n        _anneal_words '");
    add_commands(b);
    an_buf_str(b, " --help --version'\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n    ");
    for (int i = 0; cli_commands[i]; i++)
        an_buf_printf(b, "%s%s", i ? "|" : "", cli_commands[i]->name);
    an_buf_str(b, ") \"_anneal_${COMP_WORDS[1]}\";;\n    esac\n}\ncomplete -F _anneal anneal\n");
}

/* ---------------------------------------------------------------- zsh */

/* Inside single quotes; with `special`, also what _arguments and _describe read as syntax. */
static void zsh_text(an_buf *b, const char *text, bool special)
{
    for (; *text; text++) {
        if (*text == '\'')
            an_buf_str(b, "'\\''");
        else if (special && strchr("[]:\\", *text))
            an_buf_printf(b, "\\%c", *text);
        else
            an_buf_add(b, text, 1);
    }
}

static void zsh_action(an_buf *b, const char *value)
{
    an_buf_str(b, ":");
    zsh_text(b, value, true);
    an_buf_str(b, ":");
    switch (kind_of(value)) {
    case A_FILE:
        an_buf_str(b, "_files");
        break;
    case A_DIR:
        an_buf_str(b, "_files -/");
        break;
    case A_MODEL:
        an_buf_str(b, "_anneal_models");
        break;
    case A_COMMAND:
    case A_WORD:
        an_buf_str(b, "(");
        add_choices(b, value);
        an_buf_str(b, ")");
        break;
    case ANYTHING:
        break;
    }
}

static void zsh_flag(an_buf *b, const char *name, const char *value, bool again, const char *help)
{
    /* "--flag=" takes the value behind the = or in the next word */
    an_buf_printf(b, "    '%s%s%s[", again ? "*" : "", name, value && name[1] == '-' ? "=" : "");
    zsh_text(b, help, true);
    an_buf_str(b, "]");
    if (value) zsh_action(b, value);
    an_buf_str(b, "'\n");
}

static void zsh_command(an_buf *b, const cli_command *c)
{
    an_buf_printf(b, "  %s) specs=(\n", c->name);
    for (const cli_flag *f = c->flags; f && f->name; f++) {
        zsh_flag(b, f->name, f->value, f->kind == CLI_LIST, f->help);
        if (f->alias) zsh_flag(b, f->alias, f->value, f->kind == CLI_LIST, f->help);
    }
    zsh_flag(b, "--help", NULL, false, "what it does and takes");
    if (c->operand) {
        an_buf_str(b, "    '");
        zsh_action(b, c->operand);
        an_buf_str(b, "'\n");
    }
    an_buf_printf(b, "  )%s;;\n", c->serve_options ? "; specs+=($serve)" : "");
}

static void zsh_script(an_buf *b)
{
    an_option_info o;
    an_buf_str(b, "#compdef anneal\n"
                  "# Completion of anneal for zsh; made by `anneal completions zsh`.\n"
                  "_anneal_models() {\n  local -a ids\n"
                  "  ids=(${(f)\"$(anneal models --names 2>/dev/null)\"})\n  compadd -a ids\n}\n"
                  "_anneal() {\n  local -a serve specs commands\n  serve=(\n");
    for (size_t i = 0; an_options_at(i, &o); i++)
        if (o.flag) zsh_flag(b, o.flag, serve_value(&o), false, o.help);
    an_buf_str(b, "  )\n  commands=(\n");
    for (int i = 0; cli_commands[i]; i++) {
        an_buf_printf(b, "    '%s:", cli_commands[i]->name);
        zsh_text(b, cli_commands[i]->summary, true);
        an_buf_str(b, "'\n");
    }
    an_buf_str(b, "  )\n  if (( CURRENT == 2 )); then\n    _describe command commands\n    return\n"
                  "  fi\n  shift words\n  (( CURRENT-- ))\n  case $words[1] in\n");
    for (int i = 0; cli_commands[i]; i++) zsh_command(b, cli_commands[i]);
    an_buf_str(b, "  *) return 1;;\n  esac\n  _arguments -s $specs\n}\n"
                  "if [ \"$funcstack[1]\" = _anneal ]; then _anneal \"$@\"; "
                  "else compdef _anneal anneal; fi\n");
}

/* ---------------------------------------------------------------- fish */

static void fish_text(an_buf *b, const char *text)
{
    an_buf_str(b, "'");
    for (; *text; text++)
        if (*text == '\'' || *text == '\\')
            an_buf_printf(b, "\\%c", *text);
        else
            an_buf_add(b, text, 1);
    an_buf_str(b, "'");
}

static void fish_value(an_buf *b, const char *value)
{
    switch (kind_of(value)) {
    case A_FILE:
        an_buf_str(b, " -r -F");
        break;
    case A_DIR:
        an_buf_str(b, " -x -a '(__fish_complete_directories)'");
        break;
    case A_MODEL:
        an_buf_str(b, " -x -a '(anneal models --names 2>/dev/null)'");
        break;
    case A_COMMAND:
    case A_WORD:
        an_buf_str(b, " -x -a '");
        add_choices(b, value);
        an_buf_str(b, "'");
        break;
    case ANYTHING:
        an_buf_str(b, " -x");
        break;
    }
}

static void fish_flag(an_buf *b, const char *commands, const char *name, const char *alias,
                      const char *value, const char *help)
{
    an_buf_printf(b, "complete -c anneal -n '__fish_seen_subcommand_from %s'", commands);
    if (name[1] == '-')
        an_buf_printf(b, " -l %s", name + 2);
    else
        an_buf_printf(b, " -s %s", name + 1);
    if (alias) an_buf_printf(b, " -s %s", alias + 1);
    if (value) fish_value(b, value);
    an_buf_str(b, " -d ");
    fish_text(b, help);
    an_buf_str(b, "\n");
}

static void fish_script(an_buf *b)
{
    an_option_info o;
    char takers[512] = "";
    an_buf_str(b, "# Completion of anneal for fish; made by `anneal completions fish`.\n"
                  "complete -c anneal -f\n");
    for (int i = 0; cli_commands[i]; i++) {
        const cli_command *c = cli_commands[i];
        const size_t len = strlen(takers);
        if (c->serve_options)
            snprintf(takers + len, sizeof takers - len, "%s%s", len ? " " : "", c->name);
        an_buf_printf(b, "complete -c anneal -n __fish_use_subcommand -a %s -d ", c->name);
        fish_text(b, c->summary);
        an_buf_str(b, "\n");
        for (const cli_flag *f = c->flags; f && f->name; f++)
            fish_flag(b, c->name, f->name, f->alias, f->value, f->help);
        if (kind_of(c->operand) == ANYTHING) continue;
        an_buf_printf(b, "complete -c anneal -n '__fish_seen_subcommand_from %s'", c->name);
        if (kind_of(c->operand) == A_FILE)
            an_buf_str(b, " -F");
        else
            fish_value(b, c->operand);
        an_buf_str(b, "\n");
    }
    for (size_t i = 0; an_options_at(i, &o); i++)
        if (o.flag) fish_flag(b, takers, o.flag, NULL, serve_value(&o), o.help);
    an_buf_str(b, "complete -c anneal -l help -d 'what it does and takes'\n"
                  "complete -c anneal -n __fish_use_subcommand -l version -d 'the version'\n");
}

bool completions_script(const char *shell, an_buf *b)
{
    if (strcmp(shell, "bash") == 0)
        bash_script(b);
    else if (strcmp(shell, "zsh") == 0)
        zsh_script(b);
    else if (strcmp(shell, "fish") == 0)
        fish_script(b);
    else
        return false;
    return true;
}
