/* Who is next: virtual time, priorities, deadlines, bounds. A simulated device with costs of its
 * own stands in for the networks: no model is needed to see whether sharing is fair. */
#include "engine/queue.h"
#include "test.h"

enum { MOST = 512 };

/* A job of the simulation: `ticks` of `cost` each, for one client. */
typedef struct fake {
    an_claim claim;
    int ticks, left;
    double cost, done_at;
    bool running;
} fake;

typedef struct world {
    an_clients clients;
    an_queue queue;
    fake job[MOST];
    int n, running, places;
    double time;
    uint64_t age;
} world;

static fake *arrive(world *w, const char *client, int ticks, double cost, int priority)
{
    fake *f = &w->job[w->n];
    *f = (fake){.ticks = ticks, .left = ticks, .cost = cost, .done_at = -1};
    f->claim.client = an_clients_enter(&w->clients, client);
    f->claim.priority = priority;
    f->claim.age = ++w->age;
    if (!an_queue_push(&w->queue, &f->claim)) {
        an_clients_leave(&w->clients, f->claim.client);
        return NULL;
    }
    w->n++;
    return f;
}

static fake *fake_of(an_claim *c)
{
    return (fake *)(void *)c; /* its first member */
}

static void start_some(world *w)
{
    while (w->running < w->places) {
        an_claim *c = an_queue_best(&w->queue, 0, false, NULL, NULL);
        if (!c) return;
        an_queue_remove(&w->queue, c);
        fake_of(c)->running = true;
        c->client->pictures++;
        w->running++;
    }
}

/* One tick with `batch` places; takes as long as all its rows cost. */
static bool step(world *w, int batch)
{
    start_some(w);
    fake *took[MOST];
    int n = 0;
    for (; n < batch; n++) {
        fake *best = NULL;
        for (int i = 0; i < w->n; i++) {
            fake *f = &w->job[i];
            bool used = !f->running;
            for (int k = 0; k < n && !used; k++) used = took[k] == f;
            if (!used && (!best || an_claim_before(&f->claim, &best->claim))) best = f;
        }
        if (!best) break;
        took[n] = best;
    }
    for (int k = 0; k < n; k++) {
        fake *f = took[k];
        w->time += f->cost;
        an_clients_charge(&w->clients, f->claim.client, f->cost);
        if (--f->left > 0) continue;
        f->running = false;
        w->running--;
        f->claim.client->pictures--;
    }
    for (int k = 0; k < n; k++) {
        if (took[k]->left > 0) continue;
        took[k]->done_at = w->time;
        an_clients_leave(&w->clients, took[k]->claim.client);
    }
    return n > 0;
}

static world *new_world(int places)
{
    world *w = calloc(1, sizeof *w);
    w->places = places;
    w->queue.max = MOST;
    return w;
}

static void end_world(world *w)
{
    while (step(w, 8)) {
    }
    an_clients_free(&w->clients);
    free(w);
}

TEST(a_hundred_jobs_do_not_delay_one)
{
    world *w = new_world(16);
    for (int i = 0; i < 100; i++) arrive(w, "many", 20, 1, 0);
    for (int i = 0; i < 5; i++) step(w, 1);
    fake *one = arrive(w, "one", 20, 1, 0);
    /* It waits for a place (here: one picture's end, 20 ticks of 1, by others) and then has every
     * second tick. */
    double arrived = w->time;
    while (one->done_at < 0) step(w, 1);
    CHECK_MSG(one->done_at - arrived <= 16 * 20 + 40, "took %g", one->done_at - arrived);
    end_world(w);
}

TEST(newcomers_have_places_of_their_own)
{
    an_clients c = {0};
    an_queue q = {.max = 8};
    an_claim a = {.client = an_clients_enter(&c, "a"), .age = 1};
    an_claim b = {.client = an_clients_enter(&c, "b"), .age = 2};
    an_queue_push(&q, &a);
    an_queue_push(&q, &b);
    CHECK(an_queue_best(&q, 0, false, NULL, NULL) == &a);
    a.client->pictures = 16;
    CHECK(an_queue_best(&q, 0, true, NULL, NULL) == &b);  /* only who has nothing running */
    CHECK(an_queue_best(&q, 0, false, NULL, NULL) == &b); /* and fewer pictures go first anyway */
    b.client->pictures = 1;
    CHECK(an_queue_best(&q, 0, true, NULL, NULL) == NULL);
    an_clients_free(&c);
}

TEST(big_pictures_cost_more)
{
    world *w = new_world(64);
    for (int i = 0; i < 20; i++) {
        arrive(w, "big", 10, 8, 0);
        arrive(w, "small", 10, 1, 0);
    }
    for (int i = 0; i < 90; i++) step(w, 1);
    double big = 0, small = 0;
    for (int i = 0; i < w->n; i++) {
        fake *f = &w->job[i];
        *(strcmp(f->claim.client->name, "big") ? &small : &big) += f->cost * (f->ticks - f->left);
    }
    /* Equal shares of the device, not of the ticks. */
    CHECK_MSG(fabs(big - small) <= 8, "big %g, small %g", big, small);
    end_world(w);
}

TEST(batches_share_too)
{
    world *w = new_world(16);
    for (int i = 0; i < 60; i++) arrive(w, "many", 10, 1, 0);
    step(w, 8);
    for (int i = 0; i < 4; i++) arrive(w, "few", 10, 1, 0);
    double many = 0, few = 0;
    /* As soon as places are free the few are in every tick, and finish as if alone. */
    while (w->n && w->job[63].done_at < 0 && step(w, 8)) {
    }
    for (int i = 0; i < w->n; i++) *(i < 60 ? &many : &few) += w->job[i].left;
    CHECK(few == 0);
    CHECK_MSG(many > 200, "left to do for the many: %g", many);
    end_world(w);
}

TEST(idling_earns_nothing)
{
    an_clients c = {0};
    an_client *a = an_clients_enter(&c, "busy");
    an_client *b = an_clients_enter(&c, "sleeper");
    an_clients_leave(&c, b);
    an_clients_charge(&c, a, 1000);
    b = an_clients_enter(&c, "sleeper");
    CHECK_NEAR(b->vtime, 1000, 0);
    /* Leaving and coming back does not wipe a debt either. */
    an_clients_charge(&c, b, 500);
    an_clients_leave(&c, b);
    b = an_clients_enter(&c, "sleeper");
    CHECK_NEAR(b->vtime, 1500, 0);
    CHECK(c.count == 2);
    an_clients_free(&c);
}

TEST(clients_are_forgotten)
{
    an_clients c = {0};
    for (int i = 0; i < 20000; i++) {
        char name[32];
        snprintf(name, sizeof name, "client %d", i);
        an_client *who = an_clients_enter(&c, name);
        an_clients_charge(&c, who, 1);
        an_clients_leave(&c, who);
    }
    CHECK_MSG(c.count <= 4097, "%d remembered", c.count);
    an_clients_free(&c);
}

TEST(names_longer_than_kept_are_cut)
{
    an_clients c = {0};
    char name[400];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    an_client *a = an_clients_enter(&c, name);
    CHECK(a == an_clients_enter(&c, name));
    CHECK(a->jobs == 2);
    an_clients_free(&c);
}

TEST(order_of_claims)
{
    an_client poor = {.vtime = 1}, rich = {.vtime = 5};
    an_claim a = {.client = &rich, .age = 1}, b = {.client = &poor, .age = 2};
    CHECK(an_claim_before(&b, &a) && !an_claim_before(&a, &b));
    a.priority = 1;
    CHECK(an_claim_before(&a, &b) && !an_claim_before(&b, &a));
    a.priority = 0;
    a.client = &poor;
    CHECK(an_claim_before(&a, &b)); /* older */
    b.deadline = 7;
    CHECK(an_claim_before(&b, &a)); /* in a hurry */
    a.deadline = 6;
    CHECK(an_claim_before(&a, &b)); /* in more of a hurry */
    CHECK(!an_claim_before(&a, &a));
}

TEST(priorities_are_strict)
{
    world *w = new_world(4);
    fake *low = arrive(w, "a", 3, 1, -1);
    fake *mid = arrive(w, "b", 3, 1, 0);
    fake *high = arrive(w, "c", 3, 1, 10);
    while (step(w, 1)) {
    }
    CHECK(high->done_at < mid->done_at && mid->done_at < low->done_at);
    end_world(w);
}

TEST(the_queue_is_bounded)
{
    an_clients c = {0};
    an_queue q = {.max = 3};
    an_claim claim[5] = {0};
    for (int i = 0; i < 5; i++) {
        claim[i].client = an_clients_enter(&c, "a");
        claim[i].age = (uint64_t)i;
        CHECK(an_queue_push(&q, &claim[i]) == (i < 3));
    }
    CHECK(an_queue_position(&q, &claim[2]) == 2);
    CHECK(an_queue_position(&q, &claim[4]) == -1);
    /* One that has begun waits for its further pictures only, and leaves room for another. */
    an_queue_started(&q, &claim[0]);
    CHECK(an_queue_position(&q, &claim[0]) == -1);
    CHECK(an_queue_position(&q, &claim[1]) == 0);
    CHECK(an_queue_push(&q, &claim[3]));
    CHECK(!an_queue_push(&q, &claim[4]));
    an_queue_remove(&q, &claim[1]);
    an_queue_remove(&q, &claim[1]);
    CHECK(q.waiting == 2);
    an_queue_remove(&q, &claim[0]);
    an_queue_remove(&q, &claim[3]);
    an_queue_remove(&q, &claim[2]);
    CHECK(q.waiting == 0 && !q.first && !q.last);
    an_clients_free(&c);
}

/* Pictures and text of one client share what the client gets; a kind that comes back starts where
 * the other is, and other clients see nothing of it. */
TEST(kinds_of_one_client_take_turns)
{
    an_clients c = {0};
    an_claim picture = {.kind = 0, .age = 1}, text = {.kind = 1, .age = 2};
    an_claim other = {.kind = 1, .age = 3};
    picture.client = an_clients_enter(&c, "one");
    text.client = an_clients_enter(&c, "one");
    other.client = an_clients_enter(&c, "two");
    REQUIRE(picture.client && picture.client == text.client && other.client);
    an_claim_enter(&picture);
    an_claim_charge(&c, &picture, 1000); /* before there was any text */
    an_claim_enter(&text);
    an_claim_enter(&other);
    CHECK(an_claim_before(&other, &picture) && an_claim_before(&other, &text));
    an_claim_charge(&c, &other, 1000);
    double spent[2] = {0};
    for (int i = 0; i < 1000; i++) {
        an_claim *first = an_claim_before(&text, &picture) ? &text : &picture;
        double cost = first == &text ? 1 : 10;
        an_claim_charge(&c, first, cost);
        spent[first->kind] += cost;
    }
    CHECK_MSG(fabs(spent[0] - spent[1]) <= 10, "%g and %g", spent[0], spent[1]);
    CHECK(an_claim_before(&other, &text));
    an_claim_leave(&text);
    an_claim_charge(&c, &picture, 5000);
    an_claim_enter(&text);
    CHECK(text.client->spent[1] == text.client->spent[0]);
    an_clients_free(&c);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
