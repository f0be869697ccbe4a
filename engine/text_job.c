/* text_job.c: a text job as its readers see it. What they get points into memory that stays
 * (answer.h); how far it is valid is read under the lock. */
#include "state.h"

#include <stdlib.h>

void an_text_job_drop_input(an_text_job *t)
{
    free(t->ids);
    free(t->bias);
    free(t->ban);
    free(t->salt);
    t->ids = t->ban = t->stop_id = NULL;
    t->bias = NULL;
    t->salt = NULL;
    an_grammar_unref(t->grammar);
    t->grammar = NULL;
}

void an_text_job_free(an_text_job *t, int n)
{
    if (!t) return;
    an_text_job_drop_input(t);
    an_stops_free(&t->stops);
    for (int i = 0; i < n && t->answer; i++) an_answer_free(&t->answer[i]);
    an_answer_free(&t->prompt);
    free(t->answer);
    free(t);
}

size_t an_text_job_bytes(const an_text_job *t, int n)
{
    size_t bytes = an_answer_bytes(&t->prompt);
    for (int i = 0; i < n; i++) bytes += an_answer_bytes(&t->answer[i]);
    return bytes;
}

bool an_job_text(an_job *j, int choice, an_text *out)
{
    *out = (an_text){0};
    if (!j->text || choice < 0 || choice >= j->n) return false;
    pthread_mutex_lock(&j->e->lock);
    *out = j->text->answer[choice].shown;
    pthread_mutex_unlock(&j->e->lock);
    return true;
}

bool an_job_prompt(an_job *j, const an_token **tokens, size_t *n)
{
    *tokens = NULL;
    *n = 0;
    if (!j->text || !j->text->echo) return false;
    pthread_mutex_lock(&j->e->lock);
    bool there = j->text->prompt_there;
    if (there) {
        *tokens = j->text->prompt.shown.tokens;
        *n = j->text->prompt.shown.n_tokens;
    }
    pthread_mutex_unlock(&j->e->lock);
    return there;
}

void an_job_text_usage(an_job *j, an_text_usage *out)
{
    *out = (an_text_usage){.first_token_s = -1};
    if (!j->text) return;
    pthread_mutex_lock(&j->e->lock);
    *out = j->text->usage;
    pthread_mutex_unlock(&j->e->lock);
}
