/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pod/live_connections.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define BUCKETS_MIN 64

struct live_connection {
    struct live_connection *next;
    struct endpoint client;
    uint16_t local_port;
    unsigned count;
};

struct live_connections {
    pthread_mutex_t lock;
    atomic_size_t len; /* 0 lets readers pass without the lock */
    size_t buckets_len;
    struct live_connection **buckets;
};

int live_connections_new(struct live_connections **ret)
{
    struct live_connections *set = calloc(1, sizeof(*set));

    if (!set)
        return -ENOMEM;
    pthread_mutex_init(&set->lock, NULL);
    *ret = set;
    return 0;
}

void live_connections_free(struct live_connections **ptr)
{
    struct live_connections *set = *ptr;

    if (!set)
        return;
    for (size_t i = 0; i < set->buckets_len; i++) {
        while (set->buckets[i]) {
            struct live_connection *t = set->buckets[i];

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

static struct live_connection **find(struct live_connections *set, const struct endpoint *client,
                                     uint16_t local_port)
{
    struct live_connection **at;

    if (!set->buckets_len)
        return NULL;
    at = &set->buckets[hash(client, local_port) & (set->buckets_len - 1)];
    for (; *at; at = &(*at)->next) {
        if ((*at)->local_port == local_port && endpoint_equal(&(*at)->client, client))
            return at;
    }
    return NULL;
}

static int grow(struct live_connections *set)
{
    size_t len = set->buckets_len ? set->buckets_len * 4 : BUCKETS_MIN;
    struct live_connection **buckets;

    if (set->len < set->buckets_len)
        return 0;
    buckets = calloc(len, sizeof(struct live_connection *));
    if (!buckets)
        return set->buckets_len ? 0 : -ENOMEM;
    for (size_t i = 0; i < set->buckets_len; i++) {
        while (set->buckets[i]) {
            struct live_connection *t = set->buckets[i];
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

int live_connections_add(struct live_connections *set, const struct endpoint *client, uint16_t local_port)
{
    struct live_connection **at, *t;
    int r = 0;

    pthread_mutex_lock(&set->lock);
    at = find(set, client, local_port);
    if (at) {
        r = (int)++(*at)->count;
    } else if (grow(set) < 0 || !(t = malloc(sizeof(*t)))) {
        r = -ENOMEM;
    } else {
        size_t slot = hash(client, local_port) & (set->buckets_len - 1);

        *t = (struct live_connection){set->buckets[slot], *client, local_port, 1};
        set->buckets[slot] = t;
        set->len++;
        r = 1;
    }
    pthread_mutex_unlock(&set->lock);
    return r;
}

void live_connections_remove(struct live_connections *set, const struct endpoint *client, uint16_t local_port)
{
    struct live_connection **at;

    pthread_mutex_lock(&set->lock);
    at = find(set, client, local_port);
    if (at && --(*at)->count == 0) {
        struct live_connection *t = *at;

        *at = t->next;
        free(t);
        set->len--;
    }
    pthread_mutex_unlock(&set->lock);
}

bool live_connections_has(struct live_connections *set, const struct endpoint *client, uint16_t local_port)
{
    bool has;

    if (!set->len)
        return false;
    pthread_mutex_lock(&set->lock);
    has = find(set, client, local_port) != NULL;
    pthread_mutex_unlock(&set->lock);
    return has;
}
