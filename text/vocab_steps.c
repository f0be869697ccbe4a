/* vocab_steps.c: the parts of a tokenizer.json besides its model: normalizers, pre-tokenizers,
 * decoders and the template of special tokens. A part that is not known is refused by name: a
 * tokenizer that silently leaves one out gives wrong ids. */
#include "lm_vocab.h"

#include <jansson.h>
#include <stdlib.h>

#define MAX_DEPTH    8
#define MAX_TEMPLATE 64

/* ---------------------------------------------------------------- steps */

void an_lm_steps_free(lm_steps *s)
{
    for (int i = 0; i < s->n; i++) {
        pcre2_code_free(s->step[i].regex);
        free(s->step[i].from);
        free(s->step[i].to);
    }
    s->n = 0;
}

an_status an_lm_step_new(lm_steps *s, lm_what what, lm_step **out, an_error *err)
{
    if (s->n >= LM_MAX_STEPS)
        return an_fail(err, AN_INVALID, "more than %d steps in a row", LM_MAX_STEPS);
    *out = &s->step[s->n++];
    **out = (lm_step){.what = what};
    return AN_OK;
}

static an_status copy_text(char **to, size_t *to_len, const char *from, size_t len, an_error *err)
{
    *to = malloc(len + 1);
    if (!*to) return an_fail(err, AN_NO_MEMORY, "out of memory for %zu bytes", len);
    if (len > 0) memcpy(*to, from, len);
    (*to)[len] = '\0';
    *to_len = len;
    return AN_OK;
}

an_status an_lm_step_text(lm_step *s, const char *from, size_t from_len, const char *to,
                          size_t to_len, an_error *err)
{
    an_status status = copy_text(&s->from, &s->from_len, from, from_len, err);
    return status == AN_OK ? copy_text(&s->to, &s->to_len, to, to_len, err) : status;
}

/* ---------------------------------------------------------------- values */

static const char *type_of(const json_t *j)
{
    const char *type = json_string_value(json_object_get(j, "type"));
    return type ? type : "";
}

static bool flag(const json_t *j, const char *key, bool otherwise)
{
    const json_t *v = json_object_get(j, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static int number(const json_t *j, const char *key, int otherwise)
{
    const json_t *v = json_object_get(j, key);
    json_int_t n = json_integer_value(v);
    return json_is_integer(v) && n >= 0 && n <= 1000000 ? (int)n : otherwise;
}

/* The texts of two keys; a missing one is empty. */
static an_status texts(lm_step *s, const json_t *j, const char *from, const char *to, an_error *err)
{
    const json_t *f = json_object_get(j, from), *t = to ? json_object_get(j, to) : NULL;
    if (!json_is_string(f) || (to && !json_is_string(t)))
        return an_fail(err, AN_INVALID, "%s has no text \"%s\"", type_of(j),
                       json_is_string(f) ? to : from);
    return an_lm_step_text(s, json_string_value(f), json_string_length(f),
                           t ? json_string_value(t) : "", t ? json_string_length(t) : 0, err);
}

/* {"String": ".."} or {"Regex": ".."} under "pattern". */
static an_status pattern(lm_step *s, const json_t *j, an_error *err)
{
    const json_t *p = json_object_get(j, "pattern");
    const json_t *text = json_is_string(p) ? p : json_object_get(p, "String");
    const json_t *regex = json_object_get(p, "Regex"), *to = json_object_get(j, "content");
    const char *with = json_is_string(to) ? json_string_value(to) : "";
    size_t with_len = json_is_string(to) ? json_string_length(to) : 0;
    if (json_is_string(regex)) {
        an_status status = an_lm_step_text(s, "", 0, with, with_len, err);
        if (status != AN_OK) return status;
        return an_lm_regex(json_string_value(regex), json_string_length(regex), &s->regex, err);
    }
    if (!json_is_string(text) || json_string_length(text) == 0)
        return an_fail(err, AN_INVALID, "%s has no \"pattern\" with a String or a Regex",
                       type_of(j));
    if (json_string_length(text) > LM_MAX_ADDED_BYTES)
        return an_fail(err, AN_INVALID, "%s looks for %zu bytes, at most %d are possible",
                       type_of(j), json_string_length(text), LM_MAX_ADDED_BYTES);
    return an_lm_step_text(s, json_string_value(text), json_string_length(text), with, with_len,
                           err);
}

static an_status behaviour(lm_step *s, const json_t *j, an_error *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const json_t *v = json_object_get(j, "behavior");
    const char *name = v ? json_string_value(v) : "Isolated";
    for (int i = 0; i < 5 && name; i++)
        if (strcmp(name, names[i]) == 0) {
            s->number = i;
            return AN_OK;
        }
    return an_fail(err, AN_INVALID, "%s has the unknown behavior '%.40s'", type_of(j),
                   name ? name : "?");
}

/* Runs `read` over the list under `key`. */
typedef an_status part_reader(an_vocab *v, const json_t *j, int depth, an_error *err);

static an_status sequence(an_vocab *v, const json_t *j, const char *key, part_reader *read,
                          int depth, an_error *err)
{
    const json_t *list = json_object_get(j, key);
    if (!json_is_array(list)) return an_fail(err, AN_INVALID, "a Sequence without \"%s\"", key);
    an_status s = AN_OK;
    for (size_t i = 0; i < json_array_size(list) && s == AN_OK; i++)
        s = read(v, json_array_get(list, i), depth + 1, err);
    return s;
}

static an_status check_depth(int depth, an_error *err)
{
    if (depth <= MAX_DEPTH) return AN_OK;
    return an_fail(err, AN_INVALID, "Sequences nested deeper than %d", MAX_DEPTH);
}

/* Entries of a table of types, by name. */
typedef struct part {
    const char *name;
    lm_what what;
} part;

static const part *find_part(const part *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0) return &list[i];
    return NULL;
}

/* ---------------------------------------------------------------- normalizers */

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static an_status charsmap(lm_step *s, const json_t *j, an_error *err)
{
    const json_t *v = json_object_get(j, "precompiled_charsmap");
    const char *text = json_string_value(v);
    size_t len = json_string_length(v), n = 0;
    if (!text) return an_fail(err, AN_INVALID, "Precompiled has no \"precompiled_charsmap\"");
    an_status status = an_lm_step_text(s, text, len, "", 0, err);
    if (status != AN_OK) return status;
    uint32_t bits = 0;
    int held = 0;
    for (size_t i = 0; i < len && text[i] != '='; i++) { /* decoded in place: it only shrinks */
        int d = base64_digit(text[i]);
        if (d < 0) return an_fail(err, AN_INVALID, "precompiled_charsmap is not base64");
        bits = bits << 6 | (uint32_t)d;
        held += 6;
        if (held >= 8) s->from[n++] = (char)(bits >> (held -= 8));
    }
    s->from_len = n;
    return an_lm_charsmap_check(s->from, n, err);
}

static void bert_flags(lm_step *s, const json_t *j)
{
    s->flag[0] = flag(j, "clean_text", true);
    s->flag[1] = flag(j, "handle_chinese_chars", true);
    s->flag[3] = flag(j, "lowercase", true);
    s->flag[2] = flag(j, "strip_accents", s->flag[3]);
}

an_status an_lm_read_normalizer(an_vocab *v, const json_t *j, int depth, an_error *err)
{
    static const part parts[] = {{"NFC", LM_NFC},
                                 {"NFD", LM_NFD},
                                 {"NFKC", LM_NFKC},
                                 {"NFKD", LM_NFKD},
                                 {"Nmt", LM_NMT},
                                 {"Lowercase", LM_LOWERCASE},
                                 {"Strip", LM_STRIP_ENDS},
                                 {"StripAccents", LM_STRIP_ACCENTS},
                                 {"Prepend", LM_PREPEND},
                                 {"Replace", LM_REPLACE},
                                 {"Precompiled", LM_CHARSMAP},
                                 {"BertNormalizer", LM_BERT_TEXT},
                                 {"ByteLevel", LM_BYTE_LEVEL}};
    if (!j || json_is_null(j)) return AN_OK;
    an_status status = check_depth(depth, err);
    if (status != AN_OK) return status;
    const char *type = type_of(j);
    if (strcmp(type, "Sequence") == 0)
        return sequence(v, j, "normalizers", an_lm_read_normalizer, depth, err);
    const part *p = find_part(parts, sizeof parts / sizeof *parts, type);
    if (!p) return an_fail(err, AN_INVALID, "the normalizer '%.40s' is not known", type);
    lm_step *s = NULL;
    if (p->what == LM_CHARSMAP && json_is_null(json_object_get(j, "precompiled_charsmap")))
        return AN_OK;
    status = an_lm_step_new(&v->normalizers, p->what, &s, err);
    if (status != AN_OK) return status;
    switch (p->what) {
    case LM_PREPEND: {
        const json_t *text = json_object_get(j, "prepend");
        if (!json_is_string(text))
            return an_fail(err, AN_INVALID, "Prepend has no text \"prepend\"");
        return an_lm_step_text(s, "", 0, json_string_value(text), json_string_length(text), err);
    }
    case LM_REPLACE:
        return pattern(s, j, err);
    case LM_CHARSMAP:
        return charsmap(s, j, err);
    case LM_BERT_TEXT:
        bert_flags(s, j);
        return AN_OK;
    case LM_STRIP_ENDS:
        s->flag[0] = flag(j, "strip_left", true);
        s->flag[1] = flag(j, "strip_right", true);
        return AN_OK;
    default:
        return AN_OK;
    }
}

/* ---------------------------------------------------------------- pre-tokenizers, decoders */

/* replacement, prepend_scheme (add_prefix_space in older files), split. */
static an_status metaspace(lm_step *s, const json_t *j, an_error *err)
{
    static const char *const names[] = {"first", "never", "always"};
    const char *scheme = json_string_value(json_object_get(j, "prepend_scheme"));
    an_status status = texts(s, j, "replacement", NULL, err);
    if (status != AN_OK) return status;
    if (s->from_len == 0 || s->from_len != an_lm_char_len(s->from[0]))
        return an_fail(err, AN_INVALID, "Metaspace's replacement is not one character");
    s->flag[0] = flag(j, "split", true);
    s->number = -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(scheme ? scheme : "always", names[i]) == 0) s->number = i;
    if (s->number < 0)
        return an_fail(err, AN_INVALID, "Metaspace has the unknown prepend_scheme '%.40s'", scheme);
    if (!flag(j, "add_prefix_space", true)) s->number = LM_NEVER;
    return AN_OK;
}

static an_status byte_level(lm_step *s, const json_t *j, an_error *err)
{
    static const char words[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    s->flag[0] = flag(j, "add_prefix_space", true);
    if (!flag(j, "use_regex", true)) return AN_OK;
    return an_lm_regex(words, sizeof words - 1, &s->regex, err);
}

an_status an_lm_read_splitter(an_vocab *v, const json_t *j, int depth, an_error *err)
{
    static const part parts[] = {{"Split", LM_SPLIT},
                                 {"ByteLevel", LM_BYTE_LEVEL},
                                 {"Digits", LM_DIGITS},
                                 {"Punctuation", LM_PUNCTUATION},
                                 {"Whitespace", LM_WHITESPACE},
                                 {"WhitespaceSplit", LM_WHITESPACE},
                                 {"BertPreTokenizer", LM_BERT_WORDS},
                                 {"Metaspace", LM_METASPACE},
                                 {"CharDelimiterSplit", LM_DELIMITER},
                                 {"FixedLength", LM_FIXED_LENGTH}};
    if (!j || json_is_null(j)) return AN_OK;
    an_status status = check_depth(depth, err);
    if (status != AN_OK) return status;
    const char *type = type_of(j);
    if (strcmp(type, "Sequence") == 0)
        return sequence(v, j, "pretokenizers", an_lm_read_splitter, depth, err);
    const part *p = find_part(parts, sizeof parts / sizeof *parts, type);
    if (!p) return an_fail(err, AN_INVALID, "the pre-tokenizer '%.40s' is not known", type);
    lm_step *s = NULL;
    status = an_lm_step_new(&v->splitters, p->what, &s, err);
    if (status != AN_OK) return status;
    switch (p->what) {
    case LM_SPLIT:
        s->flag[0] = flag(j, "invert", false);
        status = pattern(s, j, err);
        return status == AN_OK ? behaviour(s, j, err) : status;
    case LM_PUNCTUATION:
        return behaviour(s, j, err);
    case LM_DIGITS:
        s->flag[0] = flag(j, "individual_digits", false);
        return AN_OK;
    case LM_WHITESPACE:
        s->flag[0] = strcmp(type, "Whitespace") == 0;
        return AN_OK;
    case LM_BYTE_LEVEL:
        return byte_level(s, j, err);
    case LM_METASPACE:
        return metaspace(s, j, err);
    case LM_DELIMITER:
        return texts(s, j, "delimiter", NULL, err);
    case LM_FIXED_LENGTH:
        s->number = number(j, "length", 5);
        if (s->number > 0) return AN_OK;
        return an_fail(err, AN_INVALID, "FixedLength has the length 0");
    default:
        return AN_OK;
    }
}

static an_status read_decoder_values(lm_step *s, const json_t *j, an_error *err)
{
    switch (s->what) {
    case LM_REPLACE:
        return pattern(s, j, err);
    case LM_METASPACE:
        return metaspace(s, j, err);
    case LM_WORDPIECE_TEXT:
        s->flag[0] = flag(j, "cleanup", true);
        return texts(s, j, "prefix", NULL, err);
    case LM_BPE_TEXT:
        return texts(s, j, "suffix", NULL, err);
    case LM_STRIP_TOKEN: {
        s->number = number(j, "start", 0);
        s->number2 = number(j, "stop", 0);
        an_status status = texts(s, j, "content", NULL, err);
        if (status == AN_OK && s->from_len == 0)
            status = an_fail(err, AN_INVALID, "the decoder Strip has no \"content\"");
        return status;
    }
    default:
        return AN_OK;
    }
}

static an_status read_decoder(an_vocab *v, const json_t *j, int depth, an_error *err)
{
    static const part parts[] = {{"ByteLevel", LM_BYTE_LEVEL},       {"Replace", LM_REPLACE},
                                 {"ByteFallback", LM_BYTE_FALLBACK}, {"Fuse", LM_FUSE},
                                 {"Strip", LM_STRIP_TOKEN},          {"Metaspace", LM_METASPACE},
                                 {"WordPiece", LM_WORDPIECE_TEXT},   {"BPEDecoder", LM_BPE_TEXT}};
    an_status status = check_depth(depth, err);
    if (status != AN_OK) return status;
    const char *type = type_of(j);
    if (strcmp(type, "Sequence") == 0) return sequence(v, j, "decoders", read_decoder, depth, err);
    const part *p = find_part(parts, sizeof parts / sizeof *parts, type);
    if (!p) return an_fail(err, AN_INVALID, "the decoder '%.40s' is not known", type);
    lm_step *s = NULL;
    status = an_lm_step_new(&v->decoders, p->what, &s, err);
    return status == AN_OK ? read_decoder_values(s, j, err) : status;
}

an_status an_lm_read_decoder(an_vocab *v, const json_t *j, int depth, an_error *err)
{
    if (j && !json_is_null(j)) return read_decoder(v, j, depth, err);
    lm_step *s = NULL;
    return an_lm_step_new(&v->decoders, LM_JOIN_SPACE, &s, err);
}

/* ---------------------------------------------------------------- post-processors */

static an_status append_id(an_vocab *v, bool after, const json_t *id, an_error *err)
{
    int32_t **list = after ? &v->after : &v->before;
    size_t *n = after ? &v->n_after : &v->n_before;
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= MAX_TOKENS || !an_lm_exists(v, (int32_t)json_integer_value(id)))
        return an_fail(err, AN_INVALID,
                       "the post-processor adds the id %lld, which the vocabulary lacks",
                       (long long)json_integer_value(id));
    if (*n >= MAX_TEMPLATE)
        return an_fail(err, AN_INVALID, "the post-processor adds more than %d tokens",
                       MAX_TEMPLATE);
    int32_t *grown = realloc(*list, (*n + 1) * sizeof *grown);
    if (!grown) return an_fail(err, AN_NO_MEMORY, "out of memory for a template");
    *list = grown;
    grown[(*n)++] = (int32_t)json_integer_value(id);
    return AN_OK;
}

/* "single": what stands before and behind the one text {"Sequence": ..}. */
static an_status template_single(an_vocab *v, const json_t *j, an_error *err)
{
    const json_t *single = json_object_get(j, "single");
    const json_t *known = json_object_get(j, "special_tokens");
    bool after = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        if (json_object_get(item, "Sequence")) {
            if (after) return an_fail(err, AN_INVALID, "the template repeats the text");
            after = true;
            continue;
        }
        const char *name =
            json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        const json_t *ids = json_object_get(json_object_get(known, name ? name : ""), "ids");
        if (!json_is_array(ids))
            return an_fail(err, AN_INVALID, "the template names '%.60s', which it does not define",
                           name ? name : "?");
        for (size_t k = 0; k < json_array_size(ids); k++) {
            an_status s = append_id(v, after, json_array_get(ids, k), err);
            if (s != AN_OK) return s;
        }
    }
    if (!after) return an_fail(err, AN_INVALID, "the template leaves out the text");
    return AN_OK;
}

an_status an_lm_read_template(an_vocab *v, const json_t *j, int depth, an_error *err)
{
    if (!j || json_is_null(j)) return AN_OK;
    an_status s = check_depth(depth, err);
    if (s != AN_OK) return s;
    const char *type = type_of(j);
    if (strcmp(type, "ByteLevel") == 0) return AN_OK; /* offsets only */
    if (strcmp(type, "Sequence") == 0)
        return sequence(v, j, "processors", an_lm_read_template, depth, err);
    if (strcmp(type, "TemplateProcessing") == 0) return template_single(v, j, err);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        s = append_id(v, false, json_array_get(json_object_get(j, "cls"), 1), err);
        return s == AN_OK ? append_id(v, true, json_array_get(json_object_get(j, "sep"), 1), err)
                          : s;
    }
    return an_fail(err, AN_INVALID, "the post-processor '%.40s' is not known", type);
}
