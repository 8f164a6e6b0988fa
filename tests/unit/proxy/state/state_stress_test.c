/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One writer changes everything while readers route and judge. What is always in the state must always be
 * found, and what a reader took a reference on must stay what it was. Meant for the sanitizers above all.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "proxy/state/intern.h"
#include "proxy/state/rcu.h"
#include "proxy/state/reclaim.h"
#include "tests/unit/proxy/mesh_samples.h"

#define CART    "shop/cart.shop.svc.cluster.local"
#define READERS 3
#define ROUNDS  1000
#define KEPT    16

static struct state *state;
static atomic_bool done;
static atomic_ulong decisions;

struct kept {
    const struct workload *workload;
    char name[32];
};

/* Holds on to a workload for a while, then checks it and lets go. */
static void keep(struct kept *kept, const struct workload *w)
{
    char identity[100];

    if (kept->workload) {
        snprintf(identity, sizeof(identity), "spiffe://cluster.local/ns/shop/sa/%s", kept->name);
        cr_assert(!strcmp(kept->workload->name, kept->name) && !strcmp(kept->workload->identity, identity));
        workload_unref(kept->workload);
    }
    kept->workload = w;
    if (w) {
        workload_ref(w);
        snprintf(kept->name, sizeof(kept->name), "%s", w->name);
    }
}

static void authorize(const struct workload *local)
{
    struct policy_request request = {.source = sample_endpoint("10.1.0.2:1"),
                                     .destination = sample_endpoint("10.1.0.1:8080"),
                                     .identity = "spiffe://cluster.local/ns/evil/sa/eve"};
    struct policy_verdict verdict;

    policy_check(state, local, &request, &verdict);
    cr_assert(!verdict.allowed && !strcmp(verdict.policy, "shop/deny"), "%s", verdict.text);
    request.identity = "spiffe://cluster.local/ns/shop/sa/web";
    policy_check(state, local, &request, &verdict);
    cr_assert(verdict.allowed, "%s", verdict.text);
}

static void turn(uint64_t *random, struct kept *kept)
{
    struct endpoint vip = sample_endpoint("10.96.0.20:80"), prefix = sample_endpoint("240.10.1.2:80"),
                    pod = sample_endpoint("10.1.0.1:8080"), moving = sample_endpoint("10.1.9.9:80");
    const struct workload *local = state_find_local(state, "shop", "always", "always");
    struct inbound_target target;
    struct route route;

    cr_assert(local != NULL);
    authorize(local);
    route_outbound(state, local, &vip, random, NULL, &route);
    cr_assert(route.kind == ROUTE_HBONE && route.service && !strcmp(route.service->name, "cart"), "%s",
              route.detail);
    keep(&kept[*random % KEPT], route.upstream);
    route_release(&route);
    route_outbound(state, local, &prefix, random, NULL, &route);
    cr_assert(route.kind == ROUTE_HBONE, "%s", route.detail);
    route_release(&route);
    route_outbound(state, local, &pod, random, NULL, &route);
    cr_assert(route.kind == ROUTE_HBONE && !strcmp(route.upstream->name, "always"));
    route_release(&route);
    /* an address that goes from one workload to another and is never without */
    route_outbound(state, local, &moving, random, NULL, &route);
    cr_assert(route.kind == ROUTE_HBONE && !strncmp(route.upstream->name, "taker-", 6), "%d", route.kind);
    route_release(&route);
    /* with a workload that may be of an earlier version, as connections have it */
    if (kept[0].workload)
        local = kept[0].workload;
    route_inbound(state, local, &pod, "cart.shop.svc.cluster.local:80", 30,
                  "host=cart.shop.svc.cluster.local", 32, &target);
    cr_assert(target.status == 200 && target.target.port == 8080, "%d", target.status);
    service_unref(target.service);
    atomic_fetch_add_explicit(&decisions, 1, memory_order_relaxed);
}

static void *reader(void *data)
{
    uint64_t random = (uint64_t)(uintptr_t)data + 1;
    struct kept kept[KEPT] = {};

    reader_register();
    for (unsigned n = 0; !atomic_load(&done); n++) {
        turn(&random, kept);
        reader_quiescent();
        if (n % 64 == 0) {
            reader_offline();
            reader_online();
        }
    }
    for (int i = 0; i < KEPT; i++)
        keep(&kept[i], NULL);
    reader_unregister();
    return NULL;
}

static void apply_constants(int round)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20", "240.10.0.0/16"}, .ports = {{80, 8080}},
            .canonical = round % 2, .balancing = true, .mode = (unsigned)(round % 3), .preferences = {6});
    WORKLOAD(state, .name = "always", .node = "node-a", .addresses = {"10.1.0.1"}, .services = {{CART}},
             .capacity = (unsigned)(round % 5 + 1), .policies = {"shop/named"});
    POLICY(state, .name = "deny", .scope = 1, .action = 1, .rules_len = 1,
           .rules = {
               {.clauses_len = 1, .clauses = {{.matches_len = 1, .matches = {{.namespaces = {"=evil"}}}}}}});
    POLICY(state, .name = "named", .scope = 2, .action = 1);
}

static void apply_round(int round)
{
    char name[32], address[32], uid[64], old_uid[64];

    apply_constants(round);
    snprintf(name, sizeof(name), "taker-%d", round);
    snprintf(old_uid, sizeof(old_uid), "Kubernetes//Pod/shop/taker-%d", round - 1);
    WORKLOAD(state, .name = name, .addresses = {"10.1.9.9"});
    state_remove(state, STATE_ADDRESS, old_uid);
    for (int i = 0; i < 30; i++) {
        int n = (round * 7 + i * 3) % 90;

        snprintf(name, sizeof(name), "w%d", n);
        snprintf(address, sizeof(address), "10.1.1.%d", n);
        snprintf(uid, sizeof(uid), "Kubernetes//Pod/shop/w%d", n);
        if ((round + i) % 3)
            WORKLOAD(state, .name = name, .addresses = {address}, .services = {{CART}},
                     .status = round % 7 == 0);
        else
            state_remove(state, STATE_ADDRESS, uid);
        if (i % 10 == 0)
            POLICY(state, .name = name, .scope = 1, .action = 1);
        snprintf(uid, sizeof(uid), "shop/w%d", (n + 50) % 90);
        state_remove(state, STATE_AUTHORIZATION, uid);
    }
    state_commit(state);
}

Test(state_stress, readers_beside_a_writer, .timeout = 60)
{
    pthread_t threads[READERS];

    reader_register();
    state = sample_state();
    apply_round(0);
    reader_offline();
    for (uintptr_t i = 0; i < READERS; i++)
        cr_assert(pthread_create(&threads[i], NULL, reader, (void *)(i * 7919)) == 0);
    while (atomic_load(&decisions) < READERS)
        sched_yield();
    for (int round = 1; round < ROUNDS; round++)
        apply_round(round);
    atomic_store(&done, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    state_free(&state);
    reclaim_wait();
    cr_expect(intern_count() == 0, "%zu strings are left", intern_count());
    reader_unregister();
}
