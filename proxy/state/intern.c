/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/intern.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "proxy/state/hash.h"

struct interned {
    struct interned *next; /* of its bucket */
    uint64_t hash;
    uint32_t references; /* atomic; grows from zero and falls to zero only under the lock */
    char text[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct interned **buckets;
static size_t buckets_len, count; /* buckets_len: a power of two, or 0 */

static struct interned *interned_of(const char *text)
{
    return container_of(text, struct interned, text);
}

static int grow(void)
{
    size_t len = buckets_len ? buckets_len * 2 : 256;
    struct interned **larger = calloc(len, sizeof(struct interned *));

    if (!larger)
        return -ENOMEM;
    for (size_t i = 0; i < buckets_len; i++) {
        struct interned *next;

        for (struct interned *s = buckets[i]; s; s = next) {
            next = s->next;
            s->next = larger[s->hash & (len - 1)];
            larger[s->hash & (len - 1)] = s;
        }
    }
    free(buckets);
    buckets = larger;
    buckets_len = len;
    return 0;
}

static const char *get_locked(const char *text, size_t len, uint64_t hash)
{
    struct interned *s, **bucket;

    if (count >= buckets_len && grow() < 0)
        return NULL;
    bucket = &buckets[hash & (buckets_len - 1)];
    for (s = *bucket; s; s = s->next) {
        if (s->hash == hash && !strncmp(s->text, text, len) && !s->text[len]) {
            __atomic_add_fetch(&s->references, 1, __ATOMIC_RELAXED);
            return s->text;
        }
    }
    s = malloc(sizeof(*s) + len + 1);
    if (!s)
        return NULL;
    memcpy(s->text, text, len);
    s->text[len] = '\0';
    s->hash = hash;
    s->references = 1;
    s->next = *bucket;
    *bucket = s;
    count++;
    return s->text;
}

const char *intern_get_len(const char *text, size_t len)
{
    uint64_t hash = hash_bytes(text, len);
    const char *shared;

    pthread_mutex_lock(&lock);
    shared = get_locked(text, len, hash);
    pthread_mutex_unlock(&lock);
    return shared;
}

const char *intern_get(const char *text)
{
    return intern_get_len(text, strlen(text));
}

const char *intern_ref(const char *text)
{
    __atomic_add_fetch(&interned_of(text)->references, 1, __ATOMIC_RELAXED);
    return text;
}

static void put_locked(struct interned *s)
{
    struct interned **link;

    if (__atomic_sub_fetch(&s->references, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    for (link = &buckets[s->hash & (buckets_len - 1)]; *link != s; link = &(*link)->next)
        ;
    *link = s->next;
    free(s);
    if (--count == 0) {
        free(buckets);
        buckets = NULL;
        buckets_len = 0;
    }
}

void intern_put(const char *text)
{
    struct interned *s;
    uint32_t references;

    if (!text)
        return;
    s = interned_of(text);
    references = __atomic_load_n(&s->references, __ATOMIC_RELAXED);
    while (references > 1) {
        if (__atomic_compare_exchange_n(&s->references, &references, references - 1, true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED))
            return;
    }
    pthread_mutex_lock(&lock);
    put_locked(s);
    pthread_mutex_unlock(&lock);
}

uint64_t intern_hash(const char *text)
{
    return interned_of(text)->hash;
}

size_t intern_count(void)
{
    size_t n;

    pthread_mutex_lock(&lock);
    n = count;
    pthread_mutex_unlock(&lock);
    return n;
}
