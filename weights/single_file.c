/* single_file.c: whole Stable Diffusion models in one file. */
#include "checkpoint.h"
an_status an_single_file_open(an_checkpoint *c, an_error *err)
{
    (void)c;
    (void)err;
    return AN_OK;
}
an_status an_single_file_weights(const an_checkpoint *c, const char *component, an_weights **out,
                                 an_error *err)
{
    *out = NULL;
    return an_fail(err, AN_NOT_FOUND, "%s: no component %s", c->path, component);
}
