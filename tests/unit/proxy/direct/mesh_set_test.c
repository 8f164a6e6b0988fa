/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in the maps against what route_outbound() decides: for every state of the mesh, in the middle of an
 * update too, an address that is not dialed in plaintext at itself must be in them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "proxy/direct/departures.h"
#include "proxy/direct/mesh_set.h"
#include "proxy/state/intern.h"
#include "proxy/state/rcu.h"
#include "proxy/state/reclaim.h"
#include "tests/unit/proxy/direct/fake_maps.h"
#include "tests/unit/proxy/mesh_samples.h"

#define NUMBER    77
#define ADDRESSES 24
#define NAMES     14
#define STEPS     1600

/* How a copy of the mesh may be wrong. */
enum fault { FAULT_NONE, FAULT_NOT_COUNTED, FAULT_NO_GRACE, FAULT_LATE };

struct copy {
    enum fault fault;
    struct fake_maps maps;
    struct mesh_set *set;
    struct departures departures;
    struct state *state;
    struct mesh_watch watch;
};

static void enters(void *data, const struct cidr *range)
{
    struct copy *c = data;

    if (c->fault == FAULT_NOT_COUNTED)
        mesh_set_remove(c->set, range); /* of several owners the first that goes takes it along */
    cr_assert_eq(mesh_set_add(c->set, range), 0);
}

static void leaves(void *data, const struct cidr *range)
{
    struct copy *c = data;

    if (c->fault == FAULT_NO_GRACE || c->fault == FAULT_NOT_COUNTED) {
        mesh_set_remove(c->set, range);
        mesh_set_flush(c->set, SIZE_MAX);
    } else {
        cr_assert(departures_add(&c->departures, range));
    }
}

static void remove_range(void *data, const struct cidr *range)
{
    mesh_set_remove(((struct copy *)data)->set, range);
}

static void copy_new(struct copy *c, enum fault fault)
{
    *c = (struct copy){.fault = fault, .watch = {.enters = enters, .leaves = leaves, .data = c}};
    fake_maps_init(&c->maps);
    cr_assert_eq(mesh_set_new(&c->maps.ops, NUMBER, &c->set), 0);
    if (fault != FAULT_LATE)
        mesh_set_go_live(c->set);
    c->state = sample_state();
    state_watch_ranges(c->state, &c->watch);
}

static void copy_settle(struct copy *c)
{
    departures_close(&c->departures);
    reclaim_wait();
    departures_over(&c->departures, remove_range, c);
    cr_assert_eq(mesh_set_flush(c->set, SIZE_MAX), 0);
}

static void copy_free(struct copy *c)
{
    state_free(&c->state);
    departures_free(&c->departures);
    mesh_set_free(&c->set);
    fake_maps_free(&c->maps);
    reclaim_wait();
}

/* ---- random meshes ---- */

static uint64_t next_random(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random >> 16;
}

static unsigned pick(uint64_t *random, unsigned n)
{
    return (unsigned)(next_random(random) % n);
}

static const char *address_text(unsigned i, char text[ADDR_TEXT_LEN])
{
    snprintf(text, ADDR_TEXT_LEN, i < 16 ? "10.0.0.%u" : "fd00::%u", i);
    return text;
}

static const char *range_text(uint64_t *random, char text[64])
{
    static const char *const ranges[] = {"10.0.0.0/28",  "10.0.0.8/30", "10.0.0.0/31", "0.0.0.0/0",
                                         "fd00::10/124", "fd00::/64",   "::/0",        "10.0.0.12/32"};
    char address[ADDR_TEXT_LEN];
    const char *network = pick(random, 3) ? "" : "remote@";

    if (pick(random, 4) == 0)
        snprintf(text, 64, "%s%s", network, ranges[pick(random, 8)]);
    else
        snprintf(text, 64, "%s%s", network, address_text(pick(random, ADDRESSES), address));
    return text;
}

static const char *gateway_text(uint64_t *random, char text[64])
{
    char address[ADDR_TEXT_LEN];

    switch (pick(random, 8)) {
    case 0:
        snprintf(text, 64, "@/%s:15008", address_text(pick(random, ADDRESSES), address));
        return text;
    case 1:
        return "shop/s1.shop.svc.cluster.local:15008";
    default:
        return NULL;
    }
}

static void random_workload(struct copy *c, uint64_t *random)
{
    char name[16], addresses[2][ADDR_TEXT_LEN], waypoint[64], gateway[64];
    struct sample_workload w = {.name = name, .account = "a"};
    unsigned len = pick(random, 3);

    snprintf(name, sizeof(name), "w%u", pick(random, NAMES));
    for (unsigned i = 0; i < len; i++)
        w.addresses[i] = address_text(pick(random, ADDRESSES), addresses[i]);
    w.plain = pick(random, 2);
    w.network = pick(random, 4) ? "" : "remote";
    w.mode = pick(random, 5) == 0;
    w.node = pick(random, 2) ? "node-a" : "node-b";
    w.waypoint = gateway_text(random, waypoint);
    w.gateway = gateway_text(random, gateway);
    for (unsigned i = 0; i < pick(random, 3); i++) {
        w.services[i].key = i ? "shop/s0.shop.svc.cluster.local" : "other/s1.other.svc.cluster.local";
        w.services[i].ports[0] = (struct sample_port){80, 8080};
    }
    cr_assert_eq(apply_workload(c->state, &w), 0, "%s", sample_error);
}

static void random_service(struct copy *c, uint64_t *random)
{
    char name[16], addresses[3][64], waypoint[64], weighted[64];
    struct sample_service s = {.name = name, .ports = {{80, 8080}}};
    unsigned len = pick(random, 4);

    snprintf(name, sizeof(name), "s%u", pick(random, 4));
    s.namespace = pick(random, 2) ? "shop" : "other";
    for (unsigned i = 0; i < len; i++)
        s.addresses[i] = range_text(random, addresses[i]);
    s.waypoint = gateway_text(random, waypoint);
    if (pick(random, 6) == 0) {
        s.weighted[0].reference = gateway_text(random, weighted);
        s.weighted[0].weight = 1;
    }
    s.balancing = true;
    s.mode = pick(random, 4);
    s.visibility = pick(random, 3);
    s.canonical = pick(random, 2);
    if (s.weighted[0].weight && !s.weighted[0].reference)
        s.weighted[0].weight = 0;
    cr_assert_eq(apply_service(c->state, &s), 0, "%s", sample_error);
}

static void random_step(struct copy *c, uint64_t *random)
{
    char name[64];

    switch (pick(random, 8)) {
    case 0:
        snprintf(name, sizeof(name), "Kubernetes//Pod/shop/w%u", pick(random, NAMES));
        state_remove(c->state, STATE_ADDRESS, name);
        break;
    case 1:
        snprintf(name, sizeof(name),
                 pick(random, 2) ? "shop/s%u.shop.svc.cluster.local" : "other/s%u.other.svc.cluster.local",
                 pick(random, 4));
        state_remove(c->state, STATE_ADDRESS, name);
        break;
    case 2:
    case 3:
        random_service(c, random);
        break;
    default:
        random_workload(c, random);
    }
}

/* ---- the property ---- */

/* Who asks: in both networks, and in a namespace that sees other services. */
static const struct workload *sources[3];

static void make_sources(void)
{
    struct state *state = sample_state();

    WORKLOAD(state, .name = "a", .node = "node-a");
    WORKLOAD(state, .name = "b", .node = "node-a", .namespace = "other");
    WORKLOAD(state, .name = "c", .node = "node-a", .network = "remote");
    sources[0] = state_find_local(state, "shop", "a", "");
    sources[1] = state_find_local(state, "other", "b", "");
    sources[2] = state_find_local(state, "shop", "c", "");
    for (int i = 0; i < 3; i++)
        workload_ref(sources[i]);
    state_free(&state);
    reclaim_wait();
}

static void drop_sources(void)
{
    for (int i = 0; i < 3; i++)
        workload_unref(sources[i]);
}

/* True if the mesh wants something else for it than a plain connection to where it was dialed. */
static bool needs_mesh(const struct state *state, const struct workload *source, const struct endpoint *to,
                       uint64_t *random)
{
    struct route route;
    bool plain;

    route_outbound(state, source, to, random, NULL, &route);
    plain = route.kind == ROUTE_PASSTHROUGH ||
            (route.kind == ROUTE_TCP && !route.hostname && endpoint_equal(&route.target, to));
    route_release(&route);
    return !plain;
}

static unsigned violations(struct copy *c, uint64_t *random, unsigned *ret_needed)
{
    static const uint16_t ports[] = {80, 443};
    char text[ADDR_TEXT_LEN];
    unsigned found = 0;

    for (unsigned i = 0; i < ADDRESSES; i++) {
        struct endpoint to = {.addr = sample_addr(address_text(i, text))};
        bool needed = false;

        for (unsigned n = 0; n < 6; n++) {
            to.port = ports[n % 2];
            needed |= needs_mesh(c->state, sources[n / 2], &to, random);
        }
        *ret_needed += needed;
        found += needed && !fake_maps_has_mesh(&c->maps, NUMBER, &to.addr);
    }
    return found;
}

/* How many addresses were missing at some moment; ret_needed: how many were to be there. */
static unsigned run(enum fault fault, unsigned steps, uint64_t seed, unsigned *ret_needed)
{
    uint64_t random = seed, routes = seed + 1;
    unsigned found = 0;
    struct copy c;

    *ret_needed = 0;
    copy_new(&c, fault);
    for (unsigned i = 0; i < steps && !found; i++) {
        random_step(&c, &random);
        found += violations(&c, &routes, ret_needed);
        if (pick(&random, 3) == 0) {
            state_commit(c.state);
            found += violations(&c, &routes, ret_needed);
        }
        if (i % 64 == 63) { /* a grace period takes its time */
            copy_settle(&c);
            found += violations(&c, &routes, ret_needed);
        }
    }
    for (unsigned i = 0; i < NAMES && !found; i++) {
        char name[64];

        snprintf(name, sizeof(name), "Kubernetes//Pod/shop/w%u", i);
        state_remove(c.state, STATE_ADDRESS, name);
        snprintf(name, sizeof(name), "shop/s%u.shop.svc.cluster.local", i % 4);
        state_remove(c.state, STATE_ADDRESS, name);
        snprintf(name, sizeof(name), "other/s%u.other.svc.cluster.local", i % 4);
        state_remove(c.state, STATE_ADDRESS, name);
    }
    state_commit(c.state);
    copy_settle(&c);
    if (fault == FAULT_NONE) {
        cr_expect_eq(fake_maps_len(&c.maps, BRUMA_DIRECT_FD_ADDRESSES), 0);
        cr_expect_eq(fake_maps_len(&c.maps, BRUMA_DIRECT_FD_PREFIXES), 0);
        cr_expect_eq(mesh_set_addresses(c.set) + mesh_set_prefixes(c.set), 0);
    }
    copy_free(&c);
    return found;
}

Test(mesh_set, no_route_through_the_mesh_without_an_entry, .timeout = 60)
{
    unsigned needed;

    reader_register();
    reader_offline();
    make_sources();
    for (uint64_t seed = 1; seed <= 4; seed++) {
        cr_expect_eq(run(FAULT_NONE, STEPS / 4, seed * 7919, &needed), 0);
        cr_expect(needed > STEPS, "only %u routes went through the mesh", needed);
    }
    /* the property sees faults */
    cr_expect(run(FAULT_NOT_COUNTED, STEPS, 7919, &needed) > 0);
    cr_expect(run(FAULT_LATE, STEPS, 7919, &needed) > 0);
    drop_sources();
    cr_expect_eq(intern_count(), 0);
    reader_unregister();
}

/* ---- grace ---- */

enum look { LOOK_WAIT, LOOK_ROUTE, LOOK_DONE };
static atomic_int look;
static atomic_bool needed_it;

static void *slow_reader(void *data)
{
    struct copy *c = data;
    struct endpoint to = sample_endpoint("10.0.0.1:80");
    uint64_t random = 1;

    reader_register();
    atomic_store(&needed_it, needs_mesh(c->state, sources[0], &to, &random));
    atomic_store(&look, LOOK_ROUTE);
    while (atomic_load(&look) != LOOK_DONE)
        sched_yield();
    reader_unregister();
    return NULL;
}

/* Whether the entry is there as long as a reader may go by an object that was taken out. */
static bool outlives_readers(enum fault fault)
{
    struct addr addr = sample_addr("10.0.0.1");
    pthread_t thread;
    struct copy c;
    bool there;

    copy_new(&c, fault);
    WORKLOAD(c.state, .name = "w", .addresses = {"10.0.0.1"});
    state_commit(c.state);
    atomic_store(&look, LOOK_WAIT);
    cr_assert_eq(pthread_create(&thread, NULL, slow_reader, &c), 0);
    while (atomic_load(&look) != LOOK_ROUTE)
        sched_yield();
    cr_expect(atomic_load(&needed_it));
    state_remove(c.state, STATE_ADDRESS, "Kubernetes//Pod/shop/w");
    state_commit(c.state);
    departures_close(&c.departures);
    departures_over(&c.departures, remove_range, &c);
    mesh_set_flush(c.set, SIZE_MAX);
    there = fake_maps_has_mesh(&c.maps, NUMBER, &addr);
    atomic_store(&look, LOOK_DONE);
    pthread_join(thread, NULL);
    copy_settle(&c);
    cr_expect_not(fake_maps_has_mesh(&c.maps, NUMBER, &addr));
    copy_free(&c);
    return there;
}

Test(mesh_set, an_entry_goes_after_the_last_reader, .timeout = 30)
{
    reader_register();
    reader_offline();
    make_sources();
    cr_expect(outlives_readers(FAULT_NONE));
    cr_expect_not(outlives_readers(FAULT_NO_GRACE));
    drop_sources();
    reader_unregister();
}

/* ---- under load ---- */

static atomic_bool done;
static atomic_ulong looked, missing;

static void *reader(void *data)
{
    struct copy *c = data;
    uint64_t random = (uint64_t)(uintptr_t)pthread_self() | 1;
    char text[ADDR_TEXT_LEN];

    reader_register();
    while (!atomic_load(&done)) {
        struct endpoint to = {.addr = sample_addr(address_text(pick(&random, ADDRESSES), text)), .port = 80};

        if (needs_mesh(c->state, sources[pick(&random, 3)], &to, &random)) {
            atomic_fetch_add(&missing, !fake_maps_has_mesh(&c->maps, NUMBER, &to.addr));
            atomic_fetch_add(&looked, 1);
        }
        reader_quiescent();
    }
    reader_unregister();
    return NULL;
}

Test(mesh_set, readers_beside_deltas, .timeout = 60)
{
    uint64_t random = 4242;
    pthread_t threads[2];
    struct copy c;

    reader_register();
    reader_offline();
    make_sources();
    copy_new(&c, FAULT_NONE);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, reader, &c), 0);
    for (unsigned i = 0; i < STEPS || atomic_load(&looked) < 1000; i++) {
        random_step(&c, &random);
        if (i % 8 == 0) {
            state_commit(c.state);
            departures_close(&c.departures);
        }
        departures_over(&c.departures, remove_range, &c);
        cr_assert_eq(mesh_set_flush(c.set, 16) < 0, 0);
    }
    atomic_store(&done, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(atomic_load(&missing), 0);
    state_commit(c.state);
    copy_settle(&c);
    copy_free(&c);
    drop_sources();
    reader_unregister();
}

/* ---- bounds ---- */

static struct cidr range(const char *text)
{
    struct cidr c;

    cr_assert_eq(cidr_parse(text, &c), 0);
    return c;
}

Test(mesh_set, what_finds_no_room_is_reported_and_comes_later)
{
    struct cidr a = range("10.0.0.1"), b = range("10.0.0.2"), p = range("10.0.0.0/8"),
                q = range("10.0.0.0/9");
    struct fake_maps maps;
    struct mesh_set *set;

    fake_maps_init(&maps);
    maps.maps[BRUMA_DIRECT_FD_ADDRESSES].max = maps.maps[BRUMA_DIRECT_FD_PREFIXES].max = 1;
    cr_assert_eq(mesh_set_new(&maps.ops, NUMBER, &set), 0);
    mesh_set_go_live(set);
    cr_expect_eq(mesh_set_add(set, &a), 0);
    cr_expect_eq(mesh_set_add(set, &b), -E2BIG);
    cr_expect_eq(mesh_set_add(set, &p), 0);
    cr_expect_eq(mesh_set_add(set, &q), -E2BIG);
    cr_expect_eq(mesh_set_flush(set, SIZE_MAX), -E2BIG);
    cr_expect_eq(mesh_set_addresses(set), 1);
    /* what goes makes room for what was refused, though it stands behind it */
    mesh_set_remove(set, &a);
    mesh_set_remove(set, &p);
    cr_expect_eq(mesh_set_flush(set, SIZE_MAX), -E2BIG);
    cr_expect_eq(mesh_set_flush(set, SIZE_MAX), 0);
    cr_expect(fake_maps_has_mesh(&maps, NUMBER, &b.addr));
    cr_expect_eq(mesh_set_addresses(set) + mesh_set_prefixes(set), 2);
    mesh_set_free(&set);
    fake_maps_free(&maps);
}

Test(mesh_set, a_recount_keeps_what_comes_back)
{
    struct cidr a = range("10.0.0.1"), b = range("10.0.0.2"), p = range("fd00::/8");
    struct fake_maps maps;
    struct mesh_set *set;
    unsigned long updates;

    fake_maps_init(&maps);
    cr_assert_eq(mesh_set_new(&maps.ops, NUMBER, &set), 0);
    mesh_set_go_live(set);
    mesh_set_add(set, &a);
    mesh_set_add(set, &b);
    mesh_set_add(set, &p);
    cr_expect_eq(mesh_set_flush(set, SIZE_MAX), 0);
    updates = maps.maps[BRUMA_DIRECT_FD_ADDRESSES].updates;
    mesh_set_recount(set);
    cr_expect_eq(mesh_set_add(set, &a), 0);
    cr_expect_eq(mesh_set_flush(set, 1), 1);
    cr_expect_eq(mesh_set_flush(set, SIZE_MAX), 0);
    cr_expect_eq(maps.maps[BRUMA_DIRECT_FD_ADDRESSES].updates, updates);
    cr_expect(fake_maps_has_mesh(&maps, NUMBER, &a.addr));
    cr_expect_not(fake_maps_has_mesh(&maps, NUMBER, &b.addr));
    cr_expect_not(fake_maps_has_mesh(&maps, NUMBER + 1, &a.addr));
    cr_expect_eq(mesh_set_addresses(set), 1);
    cr_expect_eq(mesh_set_prefixes(set), 0);
    mesh_set_free(&set);
    fake_maps_free(&maps);
}
