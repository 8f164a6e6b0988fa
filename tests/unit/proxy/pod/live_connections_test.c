/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <pthread.h>

#include "proxy/pod/live_connections.h"

static struct endpoint endpoint(const char *text)
{
    struct endpoint e;

    cr_assert(endpoint_parse(text, &e) == 0);
    return e;
}

Test(live_connections, holds_what_was_added_and_nothing_else)
{
    struct endpoint a = endpoint("10.0.0.1:1000"), b = endpoint("10.0.0.1:1001"),
                    c = endpoint("[fd00::1]:1000");
    struct live_connections *set;

    cr_assert(live_connections_new(&set) == 0);
    cr_expect(!live_connections_has(set, &a, 80));
    cr_assert(live_connections_add(set, &a, 80) == 1);
    cr_expect(live_connections_has(set, &a, 80));
    cr_expect(!live_connections_has(set, &a, 81) && !live_connections_has(set, &b, 80) &&
              !live_connections_has(set, &c, 80));
    live_connections_remove(set, &b, 80);
    cr_expect(live_connections_has(set, &a, 80), "removing a stranger changes nothing");
    live_connections_remove(set, &a, 80);
    cr_expect(!live_connections_has(set, &a, 80));
    live_connections_free(&set);
    cr_expect(set == NULL);
}

Test(live_connections, counts_the_same_connection)
{
    struct endpoint a = endpoint("10.0.0.1:1000");
    struct live_connections *set;

    cr_assert(live_connections_new(&set) == 0);
    cr_expect(live_connections_add(set, &a, 80) == 1);
    cr_expect(live_connections_add(set, &a, 80) == 2);
    live_connections_remove(set, &a, 80);
    cr_expect(live_connections_has(set, &a, 80));
    live_connections_remove(set, &a, 80);
    cr_expect(!live_connections_has(set, &a, 80));
    live_connections_free(&set);
}

Test(live_connections, survives_growth)
{
    struct endpoint e = endpoint("10.0.0.1:0");
    struct live_connections *set;

    cr_assert(live_connections_new(&set) == 0);
    for (int i = 1; i < 20000; i++) {
        e.port = (uint16_t)i;
        cr_assert(live_connections_add(set, &e, 80) == 1);
    }
    for (int i = 1; i < 20000; i++) {
        e.port = (uint16_t)i;
        cr_assert(live_connections_has(set, &e, 80), "%d", i);
        live_connections_remove(set, &e, 80);
        cr_assert(!live_connections_has(set, &e, 80), "%d", i);
    }
    live_connections_free(&set);
}

#define ROUNDS 20000

static void *worker(void *data)
{
    struct live_connections *set = data;
    struct endpoint e = endpoint("10.0.0.1:0");

    for (int i = 0; i < ROUNDS; i++) {
        e.port = (uint16_t)(i % 500);
        live_connections_add(set, &e, 80);
        cr_assert(live_connections_has(set, &e, 80));
        live_connections_remove(set, &e, 80);
    }
    return NULL;
}

Test(live_connections, is_shared_by_threads)
{
    struct endpoint e = endpoint("10.0.0.1:7");
    struct live_connections *set;
    pthread_t threads[3];

    cr_assert(live_connections_new(&set) == 0);
    for (int i = 0; i < 3; i++)
        cr_assert(pthread_create(&threads[i], NULL, worker, set) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    cr_expect(!live_connections_has(set, &e, 80));
    live_connections_free(&set);
}
