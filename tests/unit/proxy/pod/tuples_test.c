/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <pthread.h>

#include "proxy/pod/tuples.h"

static struct endpoint endpoint(const char *text)
{
    struct endpoint e;

    cr_assert(endpoint_parse(text, &e) == 0);
    return e;
}

Test(tuples, holds_what_was_added_and_nothing_else)
{
    struct endpoint a = endpoint("10.0.0.1:1000"), b = endpoint("10.0.0.1:1001"),
                    c = endpoint("[fd00::1]:1000");
    struct tuple_set *set;

    cr_assert(tuple_set_new(&set) == 0);
    cr_expect(!tuple_set_has(set, &a, 80));
    cr_assert(tuple_set_add(set, &a, 80) == 1);
    cr_expect(tuple_set_has(set, &a, 80));
    cr_expect(!tuple_set_has(set, &a, 81) && !tuple_set_has(set, &b, 80) && !tuple_set_has(set, &c, 80));
    tuple_set_remove(set, &b, 80);
    cr_expect(tuple_set_has(set, &a, 80), "removing a stranger changes nothing");
    tuple_set_remove(set, &a, 80);
    cr_expect(!tuple_set_has(set, &a, 80));
    tuple_set_free(&set);
    cr_expect(set == NULL);
}

Test(tuples, counts_the_same_tuple)
{
    struct endpoint a = endpoint("10.0.0.1:1000");
    struct tuple_set *set;

    cr_assert(tuple_set_new(&set) == 0);
    cr_expect(tuple_set_add(set, &a, 80) == 1);
    cr_expect(tuple_set_add(set, &a, 80) == 2);
    tuple_set_remove(set, &a, 80);
    cr_expect(tuple_set_has(set, &a, 80));
    tuple_set_remove(set, &a, 80);
    cr_expect(!tuple_set_has(set, &a, 80));
    tuple_set_free(&set);
}

Test(tuples, survives_growth)
{
    struct endpoint e = endpoint("10.0.0.1:0");
    struct tuple_set *set;

    cr_assert(tuple_set_new(&set) == 0);
    for (int i = 1; i < 20000; i++) {
        e.port = (uint16_t)i;
        cr_assert(tuple_set_add(set, &e, 80) == 1);
    }
    for (int i = 1; i < 20000; i++) {
        e.port = (uint16_t)i;
        cr_assert(tuple_set_has(set, &e, 80), "%d", i);
        tuple_set_remove(set, &e, 80);
        cr_assert(!tuple_set_has(set, &e, 80), "%d", i);
    }
    tuple_set_free(&set);
}

#define ROUNDS 20000

static void *worker(void *data)
{
    struct tuple_set *set = data;
    struct endpoint e = endpoint("10.0.0.1:0");

    for (int i = 0; i < ROUNDS; i++) {
        e.port = (uint16_t)(i % 500);
        tuple_set_add(set, &e, 80);
        cr_assert(tuple_set_has(set, &e, 80));
        tuple_set_remove(set, &e, 80);
    }
    return NULL;
}

Test(tuples, is_shared_by_threads)
{
    struct endpoint e = endpoint("10.0.0.1:7");
    struct tuple_set *set;
    pthread_t threads[3];

    cr_assert(tuple_set_new(&set) == 0);
    for (int i = 0; i < 3; i++)
        cr_assert(pthread_create(&threads[i], NULL, worker, set) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    cr_expect(!tuple_set_has(set, &e, 80));
    tuple_set_free(&set);
}
