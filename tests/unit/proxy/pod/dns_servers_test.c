/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pod/dns_servers.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>

#include "lib/cleanup.h"

#define THREADS 4
#define NOTES   2000

static struct dns_servers servers;

static void note(unsigned n, uint64_t now)
{
    struct endpoint e = {.port = 53};
    char text[32];

    snprintf(text, sizeof(text), "10.0.0.%u", n);
    cr_assert(addr_parse(text, &e.addr) == 0);
    dns_servers_note(&servers, &e, now);
}

/* The last bytes of the addresses. */
static void expect(size_t count, const unsigned *expected)
{
    struct dns_server list[DNS_SERVERS_MAX];

    cr_assert_eq(dns_servers_list(&servers, list), count);
    for (size_t i = 0; i < count; i++)
        cr_expect_eq(list[i].address.addr.bytes[15], expected[i], "%zu", i);
}

Test(dns_servers, the_last_ones_are_kept_and_the_last_is_first)
{
    struct dns_server list[DNS_SERVERS_MAX];

    dns_servers_init(&servers);
    expect(0, NULL);
    note(1, 10);
    note(2, 20);
    note(1, 30);
    expect(2, (unsigned[]){1, 2});
    dns_servers_list(&servers, list);
    cr_expect_eq(list[0].queries, 2);
    cr_expect_eq(list[0].last, 30);
    cr_expect_eq(list[1].queries, 1);
    for (unsigned i = 3; i <= 6; i++)
        note(i, 30 + i);
    expect(4, (unsigned[]){6, 5, 4, 3});
    note(3, 50);
    expect(4, (unsigned[]){3, 6, 5, 4});
    note(1, 60);
    expect(4, (unsigned[]){1, 3, 6, 5});
    dns_servers_list(&servers, list);
    cr_expect_eq(list[0].queries, 1, "one that was forgotten is counted anew");
    dns_servers_destroy(&servers);
}

static void *run(void *data)
{
    for (unsigned i = 0; i < NOTES; i++)
        note(1 + (unsigned)(uintptr_t)data % 2, i);
    return NULL;
}

Test(dns_servers, workers_share_them)
{
    struct dns_server list[DNS_SERVERS_MAX];
    pthread_t threads[THREADS];

    dns_servers_init(&servers);
    for (uintptr_t i = 0; i < THREADS; i++)
        cr_assert(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
    for (size_t i = 0; i < array_size(threads); i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(dns_servers_list(&servers, list), 2);
    cr_expect_eq(list[0].queries, THREADS / 2 * NOTES);
    cr_expect_eq(list[1].queries, THREADS / 2 * NOTES);
    dns_servers_destroy(&servers);
}
