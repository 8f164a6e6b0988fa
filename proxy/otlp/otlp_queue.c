/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/otlp/otlp_queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct otlp_queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    struct otlp_batch waiting;
    struct otlp_record **last;
    uint64_t since; /* of the first that waits; otlp_now() */
    unsigned long delay;
    uint64_t end; /* otlp_now(); 0: not yet */
    uint64_t dropped[OTLP_DROPS];
};

const char *otlp_drop_name(enum otlp_drop drop)
{
    static const char *const all[OTLP_DROPS] = {
        [OTLP_DROP_FULL] = "queue_full",     [OTLP_DROP_REFUSED] = "refused",
        [OTLP_DROP_REJECTED] = "rejected",   [OTLP_DROP_GAVE_UP] = "gave_up",
        [OTLP_DROP_ENDED] = "ended",         [OTLP_DROP_REPLACED] = "replaced",
        [OTLP_DROP_MEMORY] = "out_of_memory"};

    return all[drop];
}

uint64_t otlp_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- batches ---- */

struct otlp_record *otlp_record_new(size_t len, uint32_t items)
{
    struct otlp_record *r = malloc(sizeof(*r) + len);

    if (!r)
        return NULL;
    r->next = NULL;
    r->items = items;
    r->time = 0;
    r->len = len;
    return r;
}

void otlp_batch_clear(struct otlp_batch *batch)
{
    while (batch->first) {
        struct otlp_record *r = batch->first;

        batch->first = r->next;
        free(r);
    }
    *batch = (struct otlp_batch){};
}

static void account(struct otlp_batch *batch, const struct otlp_record *record)
{
    batch->records++;
    batch->bytes += record->len;
    batch->items += record->items;
}

void otlp_batch_add(struct otlp_batch *batch, struct otlp_record *record)
{
    struct otlp_record **at = &batch->first;

    while (*at)
        at = &(*at)->next;
    record->next = NULL;
    *at = record;
    account(batch, record);
}

/* ---- the queue ---- */

int otlp_queue_new(unsigned long delay, struct otlp_queue **ret)
{
    struct otlp_queue *q = calloc(1, sizeof(*q));
    pthread_condattr_t attributes;

    if (!q)
        return -ENOMEM;
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&q->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    q->delay = delay;
    q->last = &q->waiting.first;
    *ret = q;
    return 0;
}

void otlp_queue_free(struct otlp_queue **queue)
{
    struct otlp_queue *q = *queue;

    if (!q)
        return;
    otlp_batch_clear(&q->waiting);
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
    free(q);
    *queue = NULL;
}

static bool is_full(const struct otlp_queue *q)
{
    return q->waiting.records >= OTLP_BATCH_RECORDS || q->waiting.bytes >= OTLP_BATCH_BYTES;
}

/* The sender has nothing to do before the first, and is awaited by no more than a batch. */
static void append(struct otlp_queue *q, struct otlp_record *record)
{
    bool was_full = is_full(q), was_empty = !q->waiting.first;

    record->next = NULL;
    *q->last = record;
    q->last = &record->next;
    account(&q->waiting, record);
    if (was_empty)
        q->since = otlp_now();
    if (was_empty || (!was_full && is_full(q)))
        pthread_cond_signal(&q->changed);
}

void otlp_queue_put(struct otlp_queue *q, struct otlp_record *record)
{
    bool taken = false;

    pthread_mutex_lock(&q->lock);
    if (!record) {
        q->dropped[OTLP_DROP_MEMORY]++;
    } else if (q->waiting.records >= OTLP_QUEUE_RECORDS ||
               q->waiting.bytes + record->len > OTLP_QUEUE_BYTES) {
        q->dropped[OTLP_DROP_FULL] += record->items;
    } else {
        append(q, record);
        taken = true;
    }
    pthread_mutex_unlock(&q->lock);
    if (!taken)
        free(record);
}

void otlp_queue_replace(struct otlp_queue *q, struct otlp_record *record)
{
    struct otlp_batch before;

    pthread_mutex_lock(&q->lock);
    before = q->waiting;
    q->waiting = (struct otlp_batch){};
    q->last = &q->waiting.first;
    q->dropped[OTLP_DROP_REPLACED] += before.items;
    append(q, record);
    pthread_mutex_unlock(&q->lock);
    otlp_batch_clear(&before);
}

static void wait_until(struct otlp_queue *q, uint64_t then)
{
    struct timespec at = {.tv_sec = (time_t)(then / 1000), .tv_nsec = (long)(then % 1000) * 1000000};

    pthread_cond_timedwait(&q->changed, &q->lock, &at);
}

/* As much as a batch takes, at least one. */
static void take(struct otlp_queue *q, struct otlp_batch *ret)
{
    struct otlp_record **at = &q->waiting.first;

    *ret = (struct otlp_batch){.first = q->waiting.first};
    do {
        account(ret, *at);
        at = &(*at)->next;
    } while (*at && ret->records < OTLP_BATCH_RECORDS && ret->bytes + (*at)->len <= OTLP_BATCH_BYTES);
    q->waiting.first = *at;
    *at = NULL;
    q->waiting.records -= ret->records;
    q->waiting.bytes -= ret->bytes;
    q->waiting.items -= ret->items;
    if (!q->waiting.first)
        q->last = &q->waiting.first;
}

bool otlp_queue_take(struct otlp_queue *q, struct otlp_batch *ret)
{
    bool taken;

    pthread_mutex_lock(&q->lock);
    for (;;) {
        if (q->end || is_full(q) || (q->waiting.first && otlp_now() >= q->since + q->delay))
            break;
        if (q->waiting.first)
            wait_until(q, q->since + q->delay);
        else
            pthread_cond_wait(&q->changed, &q->lock);
    }
    taken = q->waiting.first != NULL;
    if (taken)
        take(q, ret);
    pthread_mutex_unlock(&q->lock);
    return taken;
}

void otlp_queue_pause(struct otlp_queue *q, uint64_t milliseconds)
{
    uint64_t until = otlp_now() + milliseconds;

    pthread_mutex_lock(&q->lock);
    while (!q->end && otlp_now() < until)
        wait_until(q, until);
    /* At the end it is tried on for as long as there is time. */
    while (q->end && otlp_now() < until && otlp_now() < q->end)
        wait_until(q, until < q->end ? until : q->end);
    pthread_mutex_unlock(&q->lock);
}

void otlp_queue_drop(struct otlp_queue *q, uint64_t items, enum otlp_drop why)
{
    pthread_mutex_lock(&q->lock);
    q->dropped[why] += items;
    pthread_mutex_unlock(&q->lock);
}

void otlp_queue_end(struct otlp_queue *q, uint64_t milliseconds)
{
    pthread_mutex_lock(&q->lock);
    q->end = otlp_now() + milliseconds;
    pthread_cond_signal(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

uint64_t otlp_queue_left(struct otlp_queue *q)
{
    uint64_t now = otlp_now(), left;

    pthread_mutex_lock(&q->lock);
    left = !q->end ? UINT64_MAX : q->end > now ? q->end - now : 0;
    pthread_mutex_unlock(&q->lock);
    return left;
}

void otlp_queue_count(struct otlp_queue *q, struct otlp_queue_counts *ret)
{
    pthread_mutex_lock(&q->lock);
    ret->queued = q->waiting.records;
    for (int i = 0; i < OTLP_DROPS; i++)
        ret->dropped[i] = q->dropped[i];
    pthread_mutex_unlock(&q->lock);
}
