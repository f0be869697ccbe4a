/* vocab_gguf_pre.c: the word patterns behind the names in tokenizer.ggml.pre. The names and what
 * they mean are llama.cpp's. Where it bends a model's own pattern because std::regex lacks letter
 * cases (tekken, gpt-4o), the model's own stands here. SmolLM's digits never merge, with or without
 * the cut at \p{N} that llama.cpp makes first; other numerals (one half, Roman eight) do with the
 * space in front, as transformers reads the same file, so smollm goes with GPT-2. */
#include "vocab_open.h"

#include <stdio.h>

#define CONTRACTIONS "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define GPT2         "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define SPACES_END   "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3                                                                                     \
    CONTRACTIONS                                                                                   \
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES_END
#define QWEN2                                                                                      \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "                                         \
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES_END
#define UPPER  "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER  "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE "[^\\r\\n\\p{L}\\p{N}]?"
/* Words by case: an o200k word with `tail` (contractions) and digits of `n`. */
#define CASED(tail, n)                                                                             \
    BEFORE UPPER "*" LOWER "+" tail "|" BEFORE UPPER "+" LOWER "*" tail "|" n                      \
                 "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES_END
#define DEEPSEEK3                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"                                       \
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES_END
#define CJK "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
/* DeepSeek's list of alphabets that have cases. */
#define CASED_LETTERS                                                                              \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                 \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"         \
    "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                  \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                       \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                 \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                 \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}"        \
    "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}"         \
    "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}"                 \
    "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"                  \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"                   \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}"        \
    "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"         \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                  \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"                 \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"               \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}"         \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define BLOOM        " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

static const lm_pre known[] = {
    {.names = "|default|", .pattern = {"[\\p{P}$+<=>\\^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = "|llama3|llama-v3|llama-bpe|falcon3|falcon-h1|pixtral|midm-2.0|lfm2|jina-v5-nano|",
     .ignore_merges = true,
     .add_bos = true,
     .pattern = {LLAMA3}},
    {.names = "|dbrx|smaug-bpe|glm4|chatglm-bpe|", .pattern = {LLAMA3}},
    {.names = "|gpt-2|phi-2|jina-es|jina-de|gigachat|jina-v2-es|jina-v2-de|a.x-4.0|mellum|"
              "modern-bert|mpt|olmo|jais|trillion|granite-docling|exaone4|jina-v1-en|"
              "jina-v2-code|roberta-bpe|smollm|",
     .pattern = {GPT2}},
    {.names = "|starcoder|refact|command-r|codeshell|exaone|minerva-7b|mellum2|",
     .pattern = {"\\p{N}", GPT2}},
    {.names = "|falcon|", .pattern = {"[\\p{P}$+<=>\\^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {.names = "|qwen2|deepseek-r1-qwen|kormo|f2llmv2|stablelm2|megrez|hunyuan|solar-open|grok-2|",
     .pattern = {QWEN2}},
    {.names = "|qwen35|",
     .pattern = {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
                              " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES_END}},
    {.names = "|deepseek-llm|",
     .pattern = {"[\\r\\n]", "\\s?[" CASED_LETTERS "]+",
                 "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}"
                 "\\x{3000}-\\x{3002}]+",
                 "\\s+\\z", DEEPSEEK_CJK, "\\p{N}+"}},
    {.names = "|deepseek-coder|",
     .pattern = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {.names = "|deepseek-v3|hunyuan-dense|joyai-llm|hy_v4|",
     .pattern = {"\\p{N}{1,3}", CJK, DEEPSEEK3}},
    {.names = "|youtu|",
     .ignore_merges = true,
     .pattern = {"[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}"
                 "\\x{2018}\\x{2019}\\x{2014}\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}"
                 "\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]+|" CJK,
                 CASED(CONTRACTIONS "?", "\\p{N}")}},
    {.names = "|tekken|", .ignore_merges = true, .add_bos = true, .pattern = {CASED("", "\\p{N}")}},
    {.names = "|gpt-4o|llama4|kanana2|talkie|minimax-m2|",
     .pattern = {CASED(CONTRACTIONS "?", "\\p{N}{1,3}")}},
    {.names = "|granite-embed-multi-97m|",
     .ignore_merges = true,
     .pattern = {CASED(CONTRACTIONS "?", "\\p{N}{1,3}")}},
    {.names = "|tiny_aya|cohere2moe|",
     .pattern = {"\\d{1,3}(?=(?:\\d{3})*\\b)", CASED(CONTRACTIONS "?", "\\p{N}{1,3}")}},
    {.names = "|kimi-k2|",
     .pattern = {"\\p{Han}+", BEFORE "(?:(?!\\p{Han})" UPPER ")*(?:(?!\\p{Han})" LOWER
                                     ")+" CONTRACTIONS "?|" BEFORE "(?:(?!\\p{Han})" UPPER
                                     ")+(?:(?!\\p{Han})" LOWER ")*" CONTRACTIONS
                                     "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES_END}},
    {.names = "|poro-chat|bloom|gpt3-finnish|", .pattern = {BLOOM}},
    {.names = "|viking|", .pattern = {BLOOM, "\\p{N}"}},
    {.names = "|chameleon|",
     .add_bos = true,
     .pattern = {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )",
                 "\\p{N}", "[\\p{P}!-/:-@\\[-`{-~]", GPT2}},
    {.names = "|superbpe|", .pattern = {"\\p{N}+", "(?=(\\d{3})+(?!\\d))"}},
    {.names = "|bailingmoe|bailingmoe2|llada-moe|",
     .pattern = {"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                 " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {.names = "|seed-coder|",
     .pattern = {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                              " ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES_END}},
    {.names = "|exaone-moe|",
     .pattern = {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}|"
                              " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {.names = "|jais-2|",
     .pattern = {CONTRACTIONS
                 "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                 "\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|"
                 "\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s"}},
    {.names = "|minicpm5|",
     .ignore_merges = true,
     .pattern = {"\\p{N}{1,3}", CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+|"
                                             " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES_END}},
    {.names = "|gemma4|granite-embed-multi-311m|",
     .add_bos = true,
     .spaces = true,
     .pattern = {"[^\\n]+|[\\n]+"}},
    {.names = "|sarvam-moe|", .spaces = true, .pattern = {"[^\\n]+|[\\n]+"}},
};

an_status an_lm_pre_find(const char *name, const lm_pre **out, an_error *err)
{
    if (!name || !*name) {
        an_log(AN_LOG_WARN, "the GGUF file does not say how its tokenizer cuts words "
                            "(tokenizer.ggml.pre): \"default\" is a guess");
        name = "default";
    }
    char wanted[64];
    int n = snprintf(wanted, sizeof wanted, "|%s|", name);
    for (size_t i = 0; i < sizeof known / sizeof *known && n < (int)sizeof wanted; i++)
        if (!strchr(name, '|') && strstr(known[i].names, wanted)) {
            *out = &known[i];
            return AN_OK;
        }
    return an_fail(err, AN_INVALID,
                   "tokenizer.ggml.pre is '%.60s', which is not known; llama-bpe, qwen2, gpt-2, "
                   "smollm and others are",
                   name);
}
