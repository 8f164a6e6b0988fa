/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker has the kernel know, and what it does not. */
#include "proxy/verdicts/node_verdicts.h"

#include <criterion/criterion.h>
#include <time.h>

#include "lib/seqpacket.h"
#include "proxy/state/rcu.h"
#include "tests/unit/proxy/direct/node_site.h"
#include "tests/unit/proxy/mesh_samples.h"

static void setup(void)
{
    if (!site_begin())
        cr_skip("maps of the kernel, and a network namespace, need root");
}

TestSuite(node_verdicts, .init = setup, .fini = site_end, .timeout = 60);

static struct node_verdicts *v(void)
{
    return site.proxy.node_verdicts;
}

static void take(const int maps[BRUMA_NODE_FD_COUNT], int expected)
{
    int fds[BRUMA_NODE_FD_COUNT];

    site_same_maps(maps, fds);
    cr_expect_eq(node_verdicts_take_maps(v(), fds), expected);
}

static struct node_permission permission(unsigned port)
{
    struct node_permission p = {.source = &site.source,
                                .destination = &site.destination,
                                .source_address = site.source.addresses[0],
                                .asked = {site.destination.addresses[0], (uint16_t)port},
                                .until = time(NULL) + 3600};

    p.endpoint = p.asked;
    (void)node_verdicts_begin(v(), &p);
    return p;
}

static struct bruma_node_key key_of(unsigned port)
{
    struct bruma_node_key key = {.source_cookie = SITE_SOURCE, .port = port};

    memcpy(&key.destination, &site.destination.addresses[0], sizeof(key.destination));
    return key;
}

static bool find(const int maps[BRUMA_NODE_FD_COUNT], unsigned port, struct bruma_node_verdict *ret)
{
    struct bruma_node_key key = key_of(port);

    return site_get(maps[BRUMA_NODE_FD_VERDICTS], &key, ret) == 0;
}

static bool stands(unsigned port)
{
    struct bruma_node_key key = key_of(port);
    struct bruma_node_verdict verdict;

    return find(site.maps, port, &verdict) && node_verdicts_stand(v(), &key, &verdict);
}

Test(node_verdicts, written_only_with_maps_and_a_number)
{
    struct bruma_node_verdict verdict;
    struct node_permission p = permission(8080);

    cr_expect(!node_verdicts_begin(NULL, &p));
    node_verdicts_set_number(v(), SITE_NUMBER);
    cr_expect(!node_verdicts_begin(v(), &p));
    cr_expect_eq(node_verdicts_map(v(), BRUMA_NODE_FD_VERDICTS), -1);
    take(site.maps, 1);
    p = permission(8080);
    node_verdicts_change(v());
    node_verdicts_allow(v(), &p);
    cr_assert(find(site.maps, 8080, &verdict));
    cr_expect_eq(verdict.proxy, SITE_NUMBER);
    cr_expect(!stands(8080), "it is of before the change");
    cr_expect_eq(verdict.destination_cookie, SITE_DESTINATION);
    node_verdicts_set_number(v(), 0);
    cr_expect(!node_verdicts_begin(v(), &p));
    p.asked.port = 8081;
    node_verdicts_allow(v(), &p);
    cr_expect(!find(site.maps, 8081, &verdict));
}

Test(node_verdicts, end_with_the_first_certificate)
{
    struct bruma_node_verdict verdict;
    struct node_permission p;
    struct timespec boot;

    take(site.maps, 1);
    node_verdicts_set_number(v(), SITE_NUMBER);
    p = permission(8080);
    p.until = time(NULL);
    node_verdicts_allow(v(), &p);
    cr_expect(!find(site.maps, 8080, &verdict), "it has ended");
    p.until = time(NULL) + 100;
    node_verdicts_allow(v(), &p);
    cr_assert(find(site.maps, 8080, &verdict));
    clock_gettime(CLOCK_BOOTTIME, &boot);
    cr_expect_leq(verdict.valid_until_nanoseconds, ((uint64_t)boot.tv_sec + 100) * 1000000000);
    cr_expect_gt(verdict.valid_until_nanoseconds, (uint64_t)boot.tv_sec * 1000000000);
}

Test(node_verdicts, one_pod_has_its_share)
{
    struct bruma_node_verdict verdict;
    struct node_permission p;

    take(site.maps, 1);
    node_verdicts_set_number(v(), SITE_NUMBER);
    for (unsigned i = 0; i < BRUMA_MAX_NODE_VERDICTS_OF_POD + 10; i++) {
        p = permission(1 + i);
        node_verdicts_allow(v(), &p);
        node_verdicts_allow(v(), &p); /* the same one again is none more */
    }
    cr_expect_eq(site_count(site.maps[BRUMA_NODE_FD_VERDICTS], sizeof(struct bruma_node_key)),
                 BRUMA_MAX_NODE_VERDICTS_OF_POD);
    cr_expect_eq(node_verdicts_refused(v()).pod_verdicts_full, 20);
    cr_expect_eq(node_verdicts_refused(v()).verdicts_full, 0);
    cr_expect(!find(site.maps, BRUMA_MAX_NODE_VERDICTS_OF_POD + 1, &verdict));
    p = permission(8080);
    p.source = &site.destination;
    p.destination = &site.source;
    p.source_address = site.destination.addresses[0];
    p.asked.addr = p.endpoint.addr = site.source.addresses[0];
    node_verdicts_allow(v(), &p);
    cr_expect_eq(site_count(site.maps[BRUMA_NODE_FD_VERDICTS], sizeof(struct bruma_node_key)),
                 BRUMA_MAX_NODE_VERDICTS_OF_POD + 1, "others have theirs");
}

/* Of another port for each. */
static void allow(unsigned port)
{
    struct node_permission p = permission(port);

    node_verdicts_allow(v(), &p);
    cr_assert(stands(port));
}

Test(node_verdicts, are_void_once_a_pod_or_the_address_changes_and_by_nothing_else)
{
    const struct addr elsewhere = sample_addr("10.9.0.200");

    take(site.maps, 1);
    node_verdicts_set_number(v(), SITE_NUMBER);
    allow(1);
    node_verdicts_change_pod(v(), 4711);
    node_verdicts_change_address(v(), &elsewhere);
    cr_expect(stands(1));
    node_verdicts_change_pod(v(), SITE_SOURCE);
    cr_expect(!stands(1));
    allow(2);
    node_verdicts_change_pod(v(), SITE_DESTINATION);
    cr_expect(!stands(2));
    allow(3);
    node_verdicts_change_address(v(), &site.destination.addresses[0]);
    cr_expect(!stands(3));
    allow(4);
    node_verdicts_change(v());
    cr_expect(!stands(4));
    node_verdicts_change_pod(NULL, SITE_SOURCE);
}

/* Cookies and addresses that follow one another do not crowd. */
Test(node_verdicts, few_share_a_place)
{
    static unsigned pods[BRUMA_NODE_PLACES], addresses[BRUMA_NODE_PLACES];
    unsigned most = 0;

    for (unsigned i = 0; i < 250; i++) {
        struct bruma_address a = {.bytes = {[10] = 0xff, 0xff, 10, 9, 1, (uint8_t)i}};
        unsigned *pod = &pods[bruma_node_place(8192 + i * 137ul)],
                 *address = &addresses[bruma_node_place_of_address(&a)];

        ++*pod;
        ++*address;
        most = *pod > most ? *pod : most;
        most = *address > most ? *address : most;
    }
    cr_expect_leq(most, 2);
}

/* The agent was removed and installed again: it has made new maps, in which all begins anew. */
Test(node_verdicts, maps_of_another_agent_take_the_place_of_those_before)
{
    struct bruma_node_verdict verdict;
    struct node_permission before, p;
    int others[BRUMA_NODE_FD_COUNT];

    site_new_maps(others);
    take(site.maps, 1);
    take(site.maps, 0);
    node_verdicts_set_number(v(), SITE_NUMBER);
    for (int i = 0; i < 5; i++)
        node_verdicts_change(v());
    before = permission(8080);
    take(others, 1);
    node_verdicts_allow(v(), &before);
    cr_expect(find(site.maps, 8080, &verdict), "it goes where it was begun");
    cr_expect(!find(others, 8080, &verdict));
    reader_quiescent();
    p = permission(8080);
    cr_expect_eq(p.ticket.generation, 0);
    node_verdicts_allow(v(), &p);
    cr_expect(find(others, 8080, &verdict));
    node_verdicts_change(v());
    cr_expect_eq(node_verdicts_control(v())->generation, 1);
    close_fds(others, BRUMA_NODE_FD_COUNT);
}
