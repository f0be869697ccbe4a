/* lm_vocab.c: the tokenizer of a language model: inside a GGUF file, or beside a folder's weights.
 */
#include "lm.h"

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
