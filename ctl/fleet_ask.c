/* SPDX-License-Identifier: Apache-2.0 */
/* Many nodes are asked at a time, each on a thread. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ctl/fleet.h"
#include "ctl/source.h"
#include "lib/cleanup.h"

#define THREADS_MAX 32 /* nodes asked at a time */

struct round {
    const struct fleet *fleet;
    fleet_ask_fn ask;
    const void *data;
    struct fleet_answer *answers;
    size_t len;
    pthread_mutex_t lock;
    pthread_cond_t change;
    size_t next, done; /* under the lock */
};

static void ask_one(struct round *r, size_t i)
{
    struct fleet_answer *answer = &r->answers[i];
    struct place place = *fleet_place(r->fleet, i);

    place.complaint = answer->complaint;
    answer->code = r->ask(&place, r->data, &answer->json);
}

static void *work(void *data)
{
    struct round *r = data;

    pthread_mutex_lock(&r->lock);
    while (r->next < r->len) {
        size_t i = r->next++;

        pthread_mutex_unlock(&r->lock);
        ask_one(r, i);
        pthread_mutex_lock(&r->lock);
        r->done++;
        pthread_cond_signal(&r->change);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* On a terminal, from the first second on. */
static void show_progress(struct round *r)
{
    bool terminal = isatty(STDERR_FILENO), shown = false;
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    pthread_mutex_lock(&r->lock);
    while (r->done < r->len) {
        until.tv_sec++;
        while (r->done < r->len && pthread_cond_timedwait(&r->change, &r->lock, &until) == 0)
            ;
        if (terminal && r->done < r->len) {
            fprintf(stderr, "\r%zu of %zu nodes have answered", r->done, r->len);
            shown = true;
        }
    }
    pthread_mutex_unlock(&r->lock);
    if (shown)
        fprintf(stderr, "\r%*s\r", 60, "");
}

struct fleet_answer *fleet_ask(const struct fleet *fleet, fleet_ask_fn ask, const void *data)
{
    struct round r = {.fleet = fleet, .ask = ask, .data = data, .len = fleet_len(fleet)};
    pthread_t threads[THREADS_MAX];
    size_t started = 0;

    r.answers = calloc(r.len + 1, sizeof(*r.answers));
    if (!r.answers)
        return NULL;
    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.change, NULL);
    while (started < THREADS_MAX && started < r.len && pthread_create(&threads[started], NULL, work, &r) == 0)
        started++;
    if (started)
        show_progress(&r);
    else
        (void)work(&r); /* no thread can be had */
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&r.lock);
    pthread_cond_destroy(&r.change);
    return r.answers;
}

void fleet_answers_free(struct fleet_answer **answers, size_t len)
{
    for (size_t i = 0; *answers && i < len; i++)
        cJSON_Delete((*answers)[i].json);
    free(*answers);
    *answers = NULL;
}
