/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/reclaim.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "lib/cleanup.h"
#include "proxy/state/rcu.h"

#ifdef RCU_UNDER_TSAN
char rcu_tsan_token;
#endif

struct reclaim_item {
    void (*fn)(void *object);
    void *object;
};

struct reclaim_batch {
    struct rcu_head head;
    size_t len, capacity;
    struct reclaim_item items[];
};

/* Batches that wait for their grace period. liburcu's barrier would do, but ThreadSanitizer cannot follow it.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_released = PTHREAD_COND_INITIALIZER;
static size_t in_flight;

void reclaim_add(struct reclaim *reclaim, void (*fn)(void *object), void *object)
{
    struct reclaim_batch *batch = reclaim->batch;

    if (!object)
        return;
    if (!batch || batch->len == batch->capacity) {
        size_t capacity = batch ? batch->capacity * 2 : 16;
        struct reclaim_batch *larger = realloc(batch, sizeof(*batch) + capacity * sizeof(batch->items[0]));

        if (!larger)
            return;
        larger->len = batch ? larger->len : 0;
        larger->capacity = capacity;
        reclaim->batch = batch = larger;
    }
    batch->items[batch->len++] = (struct reclaim_item){fn, object};
}

static void release(struct rcu_head *head)
{
    struct reclaim_batch *batch = container_of(head, struct reclaim_batch, head);

    rcu_deferred();
    for (size_t i = 0; i < batch->len; i++)
        batch->items[i].fn(batch->items[i].object);
    free(batch);
    pthread_mutex_lock(&lock);
    if (--in_flight == 0)
        pthread_cond_broadcast(&all_released);
    pthread_mutex_unlock(&lock);
}

void reclaim_flush(struct reclaim *reclaim)
{
    bool online = reader_is_online();

    if (!reclaim->batch)
        return;
    pthread_mutex_lock(&lock);
    in_flight++;
    pthread_mutex_unlock(&lock);
    /* the control thread is offline while it waits and writes */
    if (!online)
        reader_online();
    rcu_defer(&reclaim->batch->head, release);
    if (!online)
        reader_offline();
    reclaim->batch = NULL;
}

void reclaim_wait(void)
{
    bool online = reader_is_online();

    if (online)
        reader_offline(); /* or the grace period would wait for this thread */
    pthread_mutex_lock(&lock);
    while (in_flight)
        pthread_cond_wait(&all_released, &lock);
    pthread_mutex_unlock(&lock);
    if (online)
        reader_online();
}
