/* SPDX-License-Identifier: Apache-2.0 */
/* Hostnames from DNS: what is made of each answer, one query for all who want a name, bounds. The control
 * thread is real, and so are the server and the workers' threads. */
#include "proxy/resolve/resolver.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "tests/unit/proxy/resolve/name_server.h"

#define TIMEOUT 600 /* milliseconds */

static struct name_server *server;
static struct loop *loop;
static struct resolver *resolver;
static pthread_t control;
static char servers[64];
static atomic_uint changes;

static void on_changed(void *data)
{
    (void)data;
    atomic_fetch_add(&changes, 1);
}

static void *run(void *data)
{
    (void)data;
    loop_run(loop);
    return NULL;
}

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void start(unsigned long max_names, unsigned long max_queries, bool ipv6)
{
    struct resolver_config config = {
        .query = {.servers = servers, .ipv6 = ipv6, .timeout = TIMEOUT},
        .max_names = max_names,
        .max_queries = max_queries,
        .changed = on_changed,
    };

    server = name_server_start(servers, sizeof(servers));
    cr_assert_eq(loop_new(&loop), 0);
    config.loop = loop;
    cr_assert_eq(resolver_new(&config, &resolver), 0);
    cr_assert_eq(pthread_create(&control, NULL, run, NULL), 0);
}

static void stop(void)
{
    loop_stop(loop);
    pthread_join(control, NULL);
    resolver_free(&resolver);
    loop_free(&loop);
    name_server_stop(server);
}

/* Looks as a worker does, until it is known. */
static struct name_answer wait_for(const char *name)
{
    struct name_answer a;
    uint64_t until = now() + 20000;

    while (!resolver_look(resolver, name, now(), &a)) {
        cr_assert(now() < until, "%s is not told of", name);
        usleep(1000);
    }
    return a;
}

/* "address ..." or "reason: detail". */
static const char *told(const char *name)
{
    static char text[3000];
    struct name_answer a = wait_for(name);
    size_t n = 0;

    if (a.reason != BRUMA_REASON_NONE) {
        cr_expect_eq(a.len, 0);
        snprintf(text, sizeof(text), "%d: %s", a.reason, a.detail);
        return text;
    }
    for (uint32_t i = 0; i < a.len; i++) {
        char buf[ADDR_TEXT_LEN];

        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", i ? " " : "",
                              addr_format(&a.addresses[i], buf));
    }
    return text;
}

#define EXPECT(name, wanted)                                              \
    do {                                                                  \
        const char *_t = told(name);                                      \
                                                                          \
        cr_expect_str_eq(_t, wanted, "%s: %s, not %s", name, _t, wanted); \
    } while (0)
#define EXPECT_REASON(name, wanted, words)                                                         \
    do {                                                                                           \
        struct name_answer _a = wait_for(name);                                                    \
                                                                                                   \
        cr_expect(_a.reason == (wanted) && strstr(_a.detail, words), "%s: %d %s", name, _a.reason, \
                  _a.detail);                                                                      \
    } while (0)

Test(resolver, answers)
{
    start(100, 10, true);
    EXPECT("v4-a.test", "192.0.2.1");
    EXPECT("v6-a.test", "2001:db8::1");
    EXPECT("both-a.test", "192.0.2.1 2001:db8::1");
    EXPECT("192.0.2.77", "192.0.2.77");
    EXPECT("2001:db8::77", "2001:db8::77");
    EXPECT_REASON("none-a.test", BRUMA_REASON_NAME_NOT_FOUND, "does not exist");
    EXPECT_REASON("nodata-a.test", BRUMA_REASON_NAME_NOT_FOUND, "no address");
    EXPECT_REASON("fail-a.test", BRUMA_REASON_NAME_SERVER_FAILED, "");
    EXPECT_REASON("loop-a.test", BRUMA_REASON_NAME_ADDRESS_REFUSED, "loopback");
    EXPECT_REASON("group-a.test", BRUMA_REASON_NAME_ADDRESS_REFUSED, "group");
    EXPECT_REASON("localhost", BRUMA_REASON_NAME_ADDRESS_REFUSED, "loopback");
    EXPECT_REASON("v4-a.LOCALHOST", BRUMA_REASON_NAME_ADDRESS_REFUSED, "loopback");
    EXPECT("v4-a.notlocalhost", "192.0.2.1");
    stop();
}

Test(resolver, to_peek_asks_nobody)
{
    struct name_answer a;
    uint64_t left = 0;

    start(100, 10, true);
    cr_expect(!resolver_peek(resolver, "v4-a.test", now(), &a, &left));
    usleep(50000);
    cr_expect(!resolver_peek(resolver, "v4-a.test", now(), &a, &left), "nobody was asked");
    EXPECT("v4-a.test", "192.0.2.1");
    cr_assert(resolver_peek(resolver, "v4-a.test", now(), &a, &left));
    cr_expect(a.reason == BRUMA_REASON_NONE && a.len == 1 && left > 0);
    cr_expect(!resolver_peek(resolver, "v4-a.test", now() + left + 1000, &a, &left));
    stop();
}

Test(resolver, of_many_addresses_some_of_each_family_are_kept)
{
    struct name_answer a;
    int v4 = 0;

    start(100, 10, true);
    a = wait_for("lots-a.test");
    for (uint32_t i = 0; i < a.len; i++)
        v4 += addr_is_v4(&a.addresses[i]);
    cr_expect(a.len == NAME_ADDRESSES_MAX && v4 == NAME_ADDRESSES_MAX / 2, "%u, %d", a.len, v4);
    stop();
}

Test(resolver, without_ipv6_its_addresses_are_not_asked_for)
{
    start(100, 10, false);
    EXPECT("both-a.test", "192.0.2.1");
    EXPECT_REASON("v6-a.test", BRUMA_REASON_NAME_NOT_FOUND, "no address");
    cr_expect_eq(name_server_queries(server, 28), 0);
    stop();
}

Test(resolver, silence_ends_in_time)
{
    uint64_t began;

    start(100, 10, true);
    began = now();
    EXPECT_REASON("silent-a.test", BRUMA_REASON_NAME_TIMEOUT, "in time");
    cr_expect(now() - began >= TIMEOUT - 20 && now() - began < TIMEOUT + 2000, "%lu ms",
              (unsigned long)(now() - began));
    /* what one family has is not lost by the silence about the other */
    EXPECT("half-a.test", "192.0.2.1");
    stop();
}

Test(resolver, a_name_is_asked_again_after_its_time)
{
    struct name_answer a;

    start(100, 10, true);
    EXPECT("both-a.test", "192.0.2.1 2001:db8::1"); /* for 2 s */
    cr_expect(resolver_look(resolver, "both-a.test", now() + 1500, &a));
    cr_expect_eq(name_server_queries(server, 1), 1);
    cr_expect(!resolver_look(resolver, "both-a.test", now() + 2100, &a));
    EXPECT("both-a.test", "192.0.2.1 2001:db8::1");
    cr_expect_eq(name_server_queries(server, 1), 2);
    /* an alias counts: 1 s, although its address is good for 60 */
    EXPECT("cname-a.test", "192.0.2.1");
    cr_expect(!resolver_look(resolver, "cname-a.test", now() + 1100, &a));
    wait_for("cname-a.test");
    stop();
}

Test(resolver, queries_are_bounded)
{
    struct name_answer a;

    start(100, 2, true);
    cr_expect(!resolver_look(resolver, "silent-a.test", now(), &a));
    cr_expect(!resolver_look(resolver, "silent-b.test", now(), &a));
    cr_expect(resolver_look(resolver, "v4-a.test", now(), &a));
    cr_expect_eq(a.reason, BRUMA_REASON_NAME_QUERIES);
    cr_expect(!resolver_look(resolver, "silent-a.test", now(), &a), "who joins a query is none more");
    wait_for("silent-a.test");
    wait_for("silent-b.test");
    EXPECT("v4-a.test", "192.0.2.1");
    stop();
}

Test(resolver, a_name_that_is_too_long)
{
    char name[300];

    start(100, 2, true);
    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    EXPECT_REASON(name, BRUMA_REASON_NAME_NOT_FOUND, "longer");
    name[100] = '.'; /* a label has at most 63 */
    name[200] = '\0';
    EXPECT_REASON(name, BRUMA_REASON_NAME_NOT_FOUND, "");
    cr_expect_eq(name_server_queries(server, 1), 0);
    stop();
}

Test(resolver, it_ends_while_queries_are_on_their_way)
{
    struct name_answer a;

    start(100, 10, true);
    cr_expect(!resolver_look(resolver, "silent-a.test", now(), &a));
    while (!name_server_queries(server, 1))
        usleep(1000);
    cr_expect(!resolver_look(resolver, "silent-b.test", now(), &a));
    stop();
}

Test(resolver, servers_that_cannot_be_understood)
{
    struct resolver_config config = {.query = {.servers = "nonsense", .timeout = TIMEOUT}};
    struct resolver *none = NULL;

    cr_expect_eq(resolver_new(&config, &none), -EINVAL);
    cr_expect_null(none);
}

static void *work(void *data)
{
    (void)data;
    for (int i = 0; i < 20; i++) {
        char name[32];

        snprintf(name, sizeof(name), "both-%d.test", i);
        cr_expect_str_eq(wait_for(name).detail, "");
        snprintf(name, sizeof(name), "none-%d.test", i);
        cr_expect_eq(wait_for(name).reason, BRUMA_REASON_NAME_NOT_FOUND);
    }
    return NULL;
}

Test(resolver, many_threads_ask_once)
{
    pthread_t threads[8];
    char *page = NULL;
    size_t len;
    FILE *out;

    start(100, 100, true);
    for (size_t i = 0; i < array_size(threads); i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, work, NULL), 0);
    for (size_t i = 0; i < array_size(threads); i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(name_server_queries(server, 1), 40);
    cr_expect_eq(name_server_queries(server, 28), 40);
    out = open_memstream(&page, &len);
    resolver_write_metrics(resolver, out);
    fclose(out);
    cr_expect(strstr(page, "bruma_names 40\n") && strstr(page, "bruma_name_queries_total 40\n") &&
                  strstr(page, "bruma_name_query_failures_total 20\n"),
              "%s", page);
    free(page);
    loop_stop(loop);
    pthread_join(control, NULL);
    cr_expect_eq(atomic_load(&changes), 40);
    resolver_free(&resolver);
    loop_free(&loop);
    name_server_stop(server);
}
