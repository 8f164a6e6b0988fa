/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/session_store.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

static struct session_key key_of(unsigned name)
{
    struct session_key key = {};

    memcpy(key.name, &name, sizeof(name));
    return key;
}

/* number: told by its id. */
static void put(struct session_store *store, unsigned name, unsigned number)
{
    struct tls_session *s = tls_session_new(0);

    cr_assert(s);
    s->key = key_of(name);
    memcpy(s->id, &number, sizeof(number));
    session_store_put(store, s);
}

/* Its number; 0: none. */
static unsigned take(struct session_store *store, unsigned name)
{
    const struct session_key key = key_of(name);
    struct tls_session *s = session_store_take(store, &key);
    unsigned number = 0;

    if (s)
        memcpy(&number, s->id, sizeof(number));
    tls_session_free(&s);
    return number;
}

static size_t held(struct session_store *store)
{
    uint64_t evicted;
    size_t n;

    session_store_count(store, &n, &evicted);
    return n;
}

Test(session_store, the_newest_of_a_key_is_taken_once)
{
    struct session_store *store = session_store_new(10);

    put(store, 1, 11);
    put(store, 1, 12);
    put(store, 2, 21);
    cr_expect(take(store, 3) == 0);
    cr_expect(take(store, 1) == 12);
    cr_expect(take(store, 1) == 11);
    cr_expect(take(store, 1) == 0);
    cr_expect(held(store) == 1);
    session_store_free(&store);
    cr_expect(!store);
    session_store_free(&store);
}

Test(session_store, without_room_the_oldest_of_all_goes)
{
    struct session_store *store = session_store_new(3);
    uint64_t evicted;
    size_t n;

    for (unsigned i = 1; i <= 5; i++)
        put(store, i, i);
    session_store_count(store, &n, &evicted);
    cr_expect(n == 3 && evicted == 2);
    for (unsigned i = 1; i <= 5; i++)
        cr_expect(take(store, i) == (i > 2 ? i : 0));
    cr_expect(held(store) == 0);
    put(store, 6, 6);
    cr_expect(take(store, 6) == 6);
    session_store_free(&store);
}

Test(session_store, one_key_has_few_so_that_others_keep_theirs)
{
    struct session_store *store = session_store_new(100);

    put(store, 2, 1);
    for (unsigned i = 1; i <= 2 * SESSIONS_OF_ONE; i++)
        put(store, 1, i);
    cr_expect(held(store) == SESSIONS_OF_ONE + 1);
    for (unsigned i = 0; i < SESSIONS_OF_ONE; i++)
        cr_expect(take(store, 1) == 2 * SESSIONS_OF_ONE - i, "the newest are kept");
    cr_expect(take(store, 1) == 0);
    cr_expect(take(store, 2) == 1);
    session_store_free(&store);
}

#define THREADS 4
#define TURNS   20000

struct shared {
    struct session_store *store;
    unsigned char taken[THREADS * TURNS + 1]; /* how often each number was; each has one writer at most */
};

struct thread {
    pthread_t id;
    unsigned index;
    struct shared *shared;
};

static void *work(void *data)
{
    struct thread *t = data;

    for (unsigned i = 0; i < TURNS; i++) {
        unsigned number;

        put(t->shared->store, i % 61, t->index * TURNS + i + 1);
        number = take(t->shared->store, (i * 7 + t->index) % 61);
        if (number)
            t->shared->taken[number]++;
    }
    return NULL;
}

/* Under ThreadSanitizer two threads that were given one session would be seen to write the same byte. */
Test(session_store, of_several_threads_one_gets_a_session)
{
    struct shared *shared = calloc(1, sizeof(*shared));
    struct thread threads[THREADS];

    shared->store = session_store_new(100);
    for (unsigned i = 0; i < THREADS; i++) {
        threads[i] = (struct thread){.index = i, .shared = shared};
        cr_assert(pthread_create(&threads[i].id, NULL, work, &threads[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i].id, NULL);
    for (size_t i = 0; i < sizeof(shared->taken); i++)
        cr_expect(shared->taken[i] <= 1);
    cr_expect(held(shared->store) <= 100);
    session_store_free(&shared->store);
    free(shared);
}
