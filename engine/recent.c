/* recent.c: what has just happened, for people who look: the last ticks and the last jobs, without
 * anything that was written or drawn. */
#include "state.h"

#include <stdio.h>

void an_recent_tick(an_unit *u, an_tick_info t)
{
    an_engine *e = u->e;
    t.seq = ++e->ticks;
    t.device = u->index;
    t.ended = an_unix_s();
    e->tick[(t.seq - 1) % AN_TICKS_KEPT] = t;
}

int an_engine_ticks(an_engine *e, uint64_t since, an_tick_info *out, int max)
{
    int n = 0;
    pthread_mutex_lock(&e->lock);
    uint64_t most = max < AN_TICKS_KEPT ? (uint64_t)max : AN_TICKS_KEPT;
    uint64_t first = e->ticks > most ? e->ticks - most : 0; /* all after this number */
    if (since <= e->ticks && since > first) first = since;
    for (uint64_t s = first; s < e->ticks; s++) out[n++] = e->tick[s % AN_TICKS_KEPT];
    pthread_mutex_unlock(&e->lock);
    return n;
}

/* Lock. */
static an_job_summary summary_of(const an_job *j)
{
    an_job_summary s = {.kind = j->text ? AN_KIND_TEXT : AN_KIND_IMAGE,
                        .latents = j->kind == AN_TASK_ENCODE || j->kind == AN_TASK_DECODE,
                        .state = j->state,
                        .created = j->created,
                        .started = j->started,
                        .finished = j->finished,
                        .n = j->n,
                        .width = j->text ? 0 : j->width,
                        .height = j->text ? 0 : j->height,
                        .step = j->step,
                        .steps = j->calls * j->n,
                        .prompt_tokens = j->prompt_tokens};
    if (j->state == AN_JOB_FAILED || j->state == AN_JOB_CANCELED) s.error = j->error.status;
    if (j->text) {
        s.prompt_tokens = j->text->usage.prompt_tokens;
        s.completion_tokens = j->text->usage.completion_tokens;
    }
    memcpy(s.client, j->client, sizeof s.client);
    an_utf8_copy(s.model, sizeof s.model, j->model);
    snprintf(s.sampler, sizeof s.sampler, "%s", j->solver_class);
    return s;
}

void an_recent_job(an_engine *e, const an_job *j)
{
    e->recent[e->recents++ % AN_RECENT_KEPT] = summary_of(j);
}

int an_engine_recent(an_engine *e, an_job_summary *out, int max)
{
    int n = 0;
    pthread_mutex_lock(&e->lock);
    for (uint64_t s = e->recents; s > 0 && n < max && n < AN_RECENT_KEPT; s--)
        out[n++] = e->recent[(s - 1) % AN_RECENT_KEPT];
    pthread_mutex_unlock(&e->lock);
    return n;
}

int an_engine_live(an_engine *e, an_job_summary *out, int max)
{
    static const an_job_state order[] = {AN_JOB_RUNNING, AN_JOB_QUEUED};
    int n = 0;
    pthread_mutex_lock(&e->lock);
    for (int k = 0; k < 2; k++)
        for (const an_job *j = e->jobs; j && n < max; j = j->next)
            if (j->state == order[k]) out[n++] = summary_of(j);
    pthread_mutex_unlock(&e->lock);
    return n;
}
