/* tokenizer.c: the tokenizer that belongs to a checkpoint. Folders bring their own; single files do
 * not, and get OpenAI's CLIP vocabulary, which all of them were trained with. */
#include "anneal/model.h"

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
