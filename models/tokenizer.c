/* tokenizer.c: the tokenizer that belongs to a checkpoint. Folders bring their own, GGUF files have
 * it inside; single files of Stable Diffusion have none, and get OpenAI's CLIP vocabulary, which
 * all of them were trained with. */
#include "lm.h"

#include <jansson.h>

/* OpenCLIP pads with "!" (id 0), OpenAI's CLIP with the end token. */
static bool pads_with_mark(const an_checkpoint *c, int which)
{
    const json_t *text = an_checkpoint_config(c, which ? "text_encoder_2" : "text_encoder");
    const char *act = json_string_value(json_object_get(text, "hidden_act"));
    return act && strcmp(act, "gelu") == 0;
}

an_status an_model_tokenizer(an_checkpoint *c, int which, an_tokenizer **out, an_error *err)
{
    char path[4096];
    *out = NULL;
    if (which < 0 || which > 1)
        return an_fail(err, AN_INVALID, "tokenizer %d, expected 0 or 1", which);
    if (an_checkpoint_dir(c, which ? "tokenizer_2" : "tokenizer", path, sizeof path))
        return an_tokenizer_open(path, NULL, out, err);
    if (an_checkpoint_layout(c) != AN_LAYOUT_SINGLE_FILE)
        return an_fail(err, AN_NOT_FOUND, "%s: no folder %s in this model", an_checkpoint_path(c),
                       which ? "tokenizer_2" : "tokenizer");
    if (!an_data_path("clip/merges.txt", path, sizeof path))
        return an_fail(err, AN_NOT_FOUND,
                       "%s: a single file brings no tokenizer, and the shipped clip/merges.txt is "
                       "not where this program looks for its data",
                       an_checkpoint_path(c));
    an_status s = an_tokenizer_open(NULL, path, out, err);
    if (!s && pads_with_mark(c, which)) s = an_tokenizer_set_pad(*out, "!", err);
    if (s) {
        an_tokenizer_free(*out);
        *out = NULL;
    }
    return s;
}

an_status an_model_vocab(an_checkpoint *c, an_vocab **out, an_error *err)
{
    char dir[4096];
    *out = NULL;
    if (!an_lm_has_tokenizer(c))
        return an_fail(err, AN_NOT_FOUND, "%s: the model has no tokenizer", an_checkpoint_path(c));
    if (an_checkpoint_layout(c) == AN_LAYOUT_GGUF)
        return an_vocab_open_gguf(an_checkpoint_config(c, "gguf"), out, err);
    if (!an_checkpoint_dir(c, "tokenizer", dir, sizeof dir))
        return an_fail(err, AN_NOT_FOUND, "%s: the model's folder is gone", an_checkpoint_path(c));
    return an_vocab_open_dir(dir, out, err);
}
