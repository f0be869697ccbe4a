/* vocab_names.c: tokens known by their text. Files seldom say which tokens end an answer or mark
 * the parts of an infill prompt; every family has its own spelling, and llama.cpp's list of them is
 * what GGUF files are made for. */
#include "lm_vocab.h"

static const char *const ends[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\xef\xbd\x9c\x65nd\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>"};

static const char *const fim[3][8] = {
    {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>",
     "<\xef\xbd\x9c\x66im\xe2\x96\x81\142egin\xef\xbd\x9c>", "<PRE>", "\xe2\x96\x81<PRE>",
     "<|code_prefix|>", "<|prefix|>"},
    {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>",
     "<\xef\xbd\x9c\x66im\xe2\x96\x81hole\xef\xbd\x9c>", "<SUF>", "\xe2\x96\x81<SUF>",
     "<|code_suffix|>", "<|suffix|>"},
    {"<|fim_middle|>", "<fim-middle>", "<fim_middle>",
     "<\xef\xbd\x9c\x66im\xe2\x96\x81\x65nd\xef\xbd\x9c>", "<MID>", "\xe2\x96\x81<MID>",
     "<|code_middle|>", "<|middle|>"}};

static int32_t find(const an_vocab *v, const char *text)
{
    return an_lm_find(v, text, strlen(text));
}

static bool is_end(const an_vocab *v, const char *text)
{
    int32_t id = find(v, text);
    return id >= 0 && (v->tokens[id].flags & LM_END);
}

/* Tokens of this name that the file does not call special are text (a vocabulary may well know the
 * letters "</s>"); GGUF files forget the mark, so there the name is enough, as in llama.cpp. */
static void mark(an_vocab *v, const char *text, uint32_t flags)
{
    int32_t id = find(v, text);
    if (id < 0 || !(v->gguf || (v->tokens[id].flags & LM_SPECIAL))) return;
    if (v->gguf && (flags & LM_SPECIAL)) flags |= LM_RAW;
    v->tokens[id].flags |= flags;
}

static void unmark(an_vocab *v, const char *text, uint32_t flags)
{
    int32_t id = find(v, text);
    if (id >= 0 && id != v->eos) v->tokens[id].flags &= ~flags;
}

void an_lm_know_tokens(an_vocab *v)
{
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) mark(v, ends[i], LM_END | LM_SPECIAL);
    for (int part = 0; part < 3; part++)
        for (int i = 0; i < 8 && v->fim[part] < 0; i++) {
            v->fim[part] = find(v, fim[part][i]);
            mark(v, fim[part][i], LM_SPECIAL);
        }
    if (an_lm_exists(v, v->eos)) v->tokens[v->eos].flags |= LM_END;
    /* gpt-oss and Solar end a message with <|end|>, an answer with <|return|> or <|call|>. */
    if ((is_end(v, "<|return|>") && is_end(v, "<|call|>")) ||
        (is_end(v, "<|calls|>") && is_end(v, "<|flush|>")))
        unmark(v, "<|end|>", LM_END);
    if (is_end(v, "<|tool_response>")) unmark(v, "</s>", LM_END);
    /* gpt-oss writes its channels with these: a reader of the answer needs to see them. */
    static const char *const shown[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};
    for (int i = 0; i < 4 && v->gguf; i++) {
        mark(v, shown[i], LM_RAW);
        unmark(v, shown[i], LM_SPECIAL);
    }
}
