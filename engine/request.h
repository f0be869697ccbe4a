/* request.h: what the checks of pictures (request.c) and of text (text_request.c) share. */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include "state.h"

an_status an_check_int(const char *field, int v, int lo, int hi, an_error *err);
an_status an_check_real(const char *field, double v, double lo, double hi, an_error *err);
int64_t an_random_seed(void);
void an_job_describe_model(an_job *j, an_files *s, const char *client);
/* Hands a complete job (s: what its making came to) to the queue; its reference becomes the
 * caller's, or is dropped. */
an_status an_job_submit(an_engine *e, an_job *j, an_status s, an_job **out, an_error *err);

#endif
