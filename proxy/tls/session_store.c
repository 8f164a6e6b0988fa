/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/session_store.h"

#include <openssl/crypto.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/state/hash.h"

struct session_store {
    pthread_mutex_t lock; /* of all below, for the time of a look-up */
    struct list ages;
    size_t held, most, buckets_len;
    uint64_t evicted;
    struct tls_session *buckets[];
};

struct tls_session *tls_session_new(size_t identity_len)
{
    struct tls_session *s = calloc(1, sizeof(*s) + identity_len + 1);

    if (s)
        list_init(&s->age);
    return s;
}

void tls_session_free(struct tls_session **session)
{
    struct tls_session *s = *session;

    if (!s)
        return;
    OPENSSL_cleanse(s->secret, sizeof(s->secret));
    sk_X509_pop_free(s->peer_chain, X509_free);
    free(s);
    *session = NULL;
}

struct session_store *session_store_new(size_t most)
{
    struct session_store *store = calloc(1, sizeof(*store) + most * sizeof(store->buckets[0]));

    if (!store)
        return NULL;
    pthread_mutex_init(&store->lock, NULL);
    list_init(&store->ages);
    store->most = store->buckets_len = most;
    return store;
}

void session_store_free(struct session_store **store)
{
    struct session_store *s = *store;

    if (!s)
        return;
    while (!list_empty(&s->ages)) {
        struct tls_session *session = list_first(&s->ages, struct tls_session, age);

        list_del(&session->age);
        tls_session_free(&session);
    }
    pthread_mutex_destroy(&s->lock);
    free(s);
    *store = NULL;
}

static struct tls_session **bucket(struct session_store *store, const struct session_key *key)
{
    return &store->buckets[hash_bytes(key, sizeof(*key)) % store->buckets_len];
}

static bool same(const struct tls_session *session, const struct session_key *key)
{
    return !memcmp(&session->key, key, sizeof(*key));
}

/* at: the pointer to it in its bucket. */
static struct tls_session *unlink_at(struct session_store *store, struct tls_session **at)
{
    struct tls_session *session = *at;

    *at = session->next;
    session->next = NULL;
    list_del(&session->age);
    store->held--;
    return session;
}

static struct tls_session *evict(struct session_store *store, struct tls_session *session)
{
    struct tls_session **at = bucket(store, &session->key);

    while (*at != session)
        at = &(*at)->next;
    store->evicted++;
    return unlink_at(store, at);
}

/* The oldest of that key if there are as many as there may be. */
static struct tls_session *one_too_many(struct session_store *store, const struct session_key *key)
{
    struct tls_session **oldest = NULL;
    unsigned count = 0;

    for (struct tls_session **at = bucket(store, key); *at; at = &(*at)->next) {
        if (same(*at, key)) {
            count++;
            oldest = at;
        }
    }
    return count >= SESSIONS_OF_ONE ? unlink_at(store, oldest) : NULL;
}

void session_store_put(struct session_store *store, struct tls_session *session)
{
    struct tls_session **first, *gone;

    pthread_mutex_lock(&store->lock);
    gone = one_too_many(store, &session->key);
    if (!gone && store->held == store->most)
        gone = evict(store, list_first(&store->ages, struct tls_session, age));
    first = bucket(store, &session->key);
    session->next = *first;
    *first = session;
    list_add_tail(&store->ages, &session->age);
    store->held++;
    pthread_mutex_unlock(&store->lock);
    tls_session_free(&gone);
}

struct tls_session *session_store_take(struct session_store *store, const struct session_key *key)
{
    struct tls_session **at, *taken = NULL;

    pthread_mutex_lock(&store->lock);
    for (at = bucket(store, key); *at && !same(*at, key);)
        at = &(*at)->next;
    if (*at)
        taken = unlink_at(store, at);
    pthread_mutex_unlock(&store->lock);
    return taken;
}

struct tls_session *session_store_any(struct session_store *store)
{
    return list_empty(&store->ages) ? NULL : list_entry(store->ages.prev, struct tls_session, age);
}

void session_store_count(struct session_store *store, size_t *ret_held, uint64_t *ret_evicted)
{
    pthread_mutex_lock(&store->lock);
    *ret_held = store->held;
    *ret_evicted = store->evicted;
    pthread_mutex_unlock(&store->lock);
}
