/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pod/tuples.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define BUCKETS_MIN 64

struct tuple {
    struct tuple *next;
    struct endpoint client;
    uint16_t local_port;
    unsigned count;
};

struct tuple_set {
    pthread_mutex_t lock;
    atomic_size_t len; /* 0 lets readers pass without the lock */
    size_t buckets_len;
    struct tuple **buckets;
};

int tuple_set_new(struct tuple_set **ret)
{
    struct tuple_set *set = calloc(1, sizeof(*set));

    if (!set)
        return -ENOMEM;
    pthread_mutex_init(&set->lock, NULL);
    *ret = set;
    return 0;
}

void tuple_set_free(struct tuple_set **ptr)
{
    struct tuple_set *set = *ptr;

    if (!set)
        return;
    for (size_t i = 0; i < set->buckets_len; i++) {
        while (set->buckets[i]) {
            struct tuple *t = set->buckets[i];

            set->buckets[i] = t->next;
            free(t);
        }
    }
    free(set->buckets);
    pthread_mutex_destroy(&set->lock);
    free(set);
    *ptr = NULL;
}

static size_t hash(const struct endpoint *client, uint16_t local_port)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < sizeof(client->addr.bytes); i++)
        h = (h ^ client->addr.bytes[i]) * 0x100000001b3u;
    h = (h ^ client->port) * 0x100000001b3u;
    h = (h ^ local_port) * 0x100000001b3u;
    return (size_t)(h ^ (h >> 32));
}

static struct tuple **find(struct tuple_set *set, const struct endpoint *client, uint16_t local_port)
{
    struct tuple **at;

    if (!set->buckets_len)
        return NULL;
    at = &set->buckets[hash(client, local_port) & (set->buckets_len - 1)];
    for (; *at; at = &(*at)->next) {
        if ((*at)->local_port == local_port && endpoint_equal(&(*at)->client, client))
            return at;
    }
    return NULL;
}

static int grow(struct tuple_set *set)
{
    size_t len = set->buckets_len ? set->buckets_len * 4 : BUCKETS_MIN;
    struct tuple **buckets;

    if (set->len < set->buckets_len)
        return 0;
    buckets = calloc(len, sizeof(struct tuple *));
    if (!buckets)
        return set->buckets_len ? 0 : -ENOMEM;
    for (size_t i = 0; i < set->buckets_len; i++) {
        while (set->buckets[i]) {
            struct tuple *t = set->buckets[i];
            size_t slot = hash(&t->client, t->local_port) & (len - 1);

            set->buckets[i] = t->next;
            t->next = buckets[slot];
            buckets[slot] = t;
        }
    }
    free(set->buckets);
    set->buckets = buckets;
    set->buckets_len = len;
    return 0;
}

int tuple_set_add(struct tuple_set *set, const struct endpoint *client, uint16_t local_port)
{
    struct tuple **at, *t;
    int r = 0;

    pthread_mutex_lock(&set->lock);
    at = find(set, client, local_port);
    if (at) {
        r = (int)++(*at)->count;
    } else if (grow(set) < 0 || !(t = malloc(sizeof(*t)))) {
        r = -ENOMEM;
    } else {
        size_t slot = hash(client, local_port) & (set->buckets_len - 1);

        *t = (struct tuple){set->buckets[slot], *client, local_port, 1};
        set->buckets[slot] = t;
        set->len++;
        r = 1;
    }
    pthread_mutex_unlock(&set->lock);
    return r;
}

void tuple_set_remove(struct tuple_set *set, const struct endpoint *client, uint16_t local_port)
{
    struct tuple **at;

    pthread_mutex_lock(&set->lock);
    at = find(set, client, local_port);
    if (at && --(*at)->count == 0) {
        struct tuple *t = *at;

        *at = t->next;
        free(t);
        set->len--;
    }
    pthread_mutex_unlock(&set->lock);
}

bool tuple_set_has(struct tuple_set *set, const struct endpoint *client, uint16_t local_port)
{
    bool has;

    if (!set->len)
        return false;
    pthread_mutex_lock(&set->lock);
    has = find(set, client, local_port) != NULL;
    pthread_mutex_unlock(&set->lock);
    return has;
}
