/* SPDX-License-Identifier: Apache-2.0 */
/* A verdict does not outlive what it depends on, whatever changes; and what does not concern it leaves it
 * alone. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/direct/node_judge.h"
#include "proxy/route/endpoints.h"
#include "proxy/route/policy.h"
#include "proxy/route/route.h"
#include "proxy/state/rcu.h"
#include "proxy/state/state_objects.h"
#include "tests/unit/proxy/direct/node_site.h"
#include "tests/unit/proxy/mesh_samples.h"

#define PODS     4
#define SERVICES 3
#define STEPS    20000
#define VERDICTS 64

static struct pod others[2];
static struct pod *const pods[PODS] = {&site.source, &site.destination, &others[0], &others[1]};
static const char *const names[PODS] = {"web", "shop", "cart", "bank"};
static const char *const addresses[] = {"10.9.0.9", "10.9.0.1",  "10.9.0.3",  "10.9.0.4",
                                        "10.8.0.1", "10.96.0.1", "10.96.0.2", "10.96.0.3"};

static void setup(void)
{
    int fds[BRUMA_NODE_FD_COUNT];

    if (!site_begin())
        cr_skip("maps of the kernel, and a network namespace, need root");
    for (int i = 0; i < 2; i++) {
        others[i] = (struct pod){.proxy = &site.proxy,
                                 .name = (char *)(uintptr_t)names[2 + i],
                                 .namespace = "shop",
                                 .service_account = (char *)(uintptr_t)names[2 + i],
                                 .cookie = 100 + (uint64_t)i,
                                 .generation = 1,
                                 .addresses_len = 1};
        others[i].addresses[0] = sample_addr(addresses[2 + i]);
        site_know(&others[i]);
    }
    cr_assert(node_judge_new(&site.proxy, &site.proxy.node_judge) == 0);
    site_same_maps(site.maps, fds);
    cr_assert(node_judge_take_maps(site.proxy.node_judge, fds) == 0);
    node_judge_in_charge(site.proxy.node_judge, SITE_NUMBER);
}

static void teardown(void)
{
    node_judge_free(&site.proxy.node_judge);
    site_end();
}

TestSuite(node_inputs, .init = setup, .fini = teardown, .timeout = 120);

static struct state *state(void)
{
    return site.proxy.state;
}

/* As the process does. */
static void commit(void)
{
    state_commit(state());
    node_judge_mesh_changed(site.proxy.node_judge);
    reader_quiescent();
}

/* ---- what a worker would say ---- */

struct answer {
    struct pod *destination; /* NULL: the kernel is told nothing */
    struct endpoint endpoint;
    char text[400]; /* all that it is made of, as far as anybody can see it */
};

static struct pod *only_pod_at(const struct addr *addr)
{
    struct pod *found = NULL;

    for (int i = 0; i < PODS; i++) {
        if (!pod_has_address(pods[i], addr))
            continue;
        if (found)
            return NULL;
        found = pods[i];
    }
    return found;
}

static const struct workload *workload_of(const struct pod *pod)
{
    return state_find_local(state(), pod->namespace, pod->name, pod->service_account);
}

static bool is_alone(const struct workload *source, const struct endpoint *asked, const struct route *route)
{
    const struct endpoint_filter filter = {.tried = &route->endpoint, .tried_len = 1};
    uint64_t random = 1;
    struct route other;
    bool alone;

    if (!route->endpoint.port)
        return true; /* the address is the workload's own */
    route_outbound(state(), source, asked, &random, &filter, &other);
    alone = other.kind == ROUTE_FAILED && !route_refers(&other);
    route_release(&other);
    return alone;
}

static bool allows(const struct workload *from, const struct workload *to, const struct endpoint *source,
                   const struct endpoint *destination)
{
    const struct policy_request request = {*source, *destination, from->identity};
    struct policy_verdict verdict;
    struct policy_anyone anyone;

    policy_check(state(), to, &request, &verdict);
    policy_check_anyone(state(), to, &anyone);
    return verdict.allowed && !verdict.unknown && anyone.answer != POLICY_ANSWER_DRY_RUN &&
           anyone.answer != POLICY_ANSWER_MISSING && !to->application_tunnel_protocol;
}

static void judge(struct pod *source, const struct endpoint *asked, struct answer *ret)
{
    const struct workload *from = workload_of(source), *to;
    struct endpoint own = {source->addresses[0], 1};
    char text[ENDPOINT_TEXT_LEN];
    uint64_t random = 1;
    struct route route;

    *ret = (struct answer){};
    if (!from || source->draining || only_pod_at(&own.addr) != source)
        return;
    route_outbound(state(), from, asked, &random, NULL, &route);
    ret->endpoint = (struct endpoint){route.target.addr, route.application_port};
    ret->destination = route.kind == ROUTE_HBONE && route.application_port && !route_refers(&route)
                           ? only_pod_at(&route.target.addr)
                           : NULL;
    to = ret->destination ? workload_of(ret->destination) : NULL;
    if (!to || to != route.upstream || ret->destination == source || ret->destination->draining ||
        !is_alone(from, asked, &route) || !allows(from, to, &own, &ret->endpoint))
        ret->destination = NULL;
    if (ret->destination)
        snprintf(ret->text, sizeof(ret->text), "%s: %s to %s, %s to %s, service %s", names[0], from->identity,
                 to->identity, source->name, endpoint_format(&ret->endpoint, text),
                 route.service ? route.service->hostname : "none");
    route_release(&route);
}

/* ---- verdicts ---- */

static struct written {
    struct node_permission permission;
    struct answer answer;
} written[VERDICTS];
static unsigned written_len;

static struct node_permission begin(struct pod *source, struct pod *destination, const struct endpoint *asked)
{
    struct node_permission p = {.source = source,
                                .destination = destination,
                                .source_address = source->addresses[0],
                                .asked = *asked,
                                .until = time(NULL) + 3600};

    cr_assert(node_verdicts_begin(site.proxy.node_verdicts, &p));
    return p;
}

static bool stands(const struct node_permission *p)
{
    struct bruma_node_key key = {.source_cookie = p->source->cookie, .port = p->asked.port};
    const struct bruma_node_verdict verdict = {.generation = p->ticket.generation,
                                               .destination_cookie = p->destination->cookie};

    memcpy(&key.destination, &p->asked.addr, sizeof(key.destination));
    return node_verdicts_stand(site.proxy.node_verdicts, &key, &verdict);
}

static void keep(const struct node_permission *p, const struct answer *answer)
{
    written[written_len++ % VERDICTS] = (struct written){*p, *answer};
}

/* How many of those that have been written stand; each of them would be written again. */
static unsigned look(const char *after, unsigned step)
{
    unsigned n = 0;

    for (unsigned i = 0; i < VERDICTS && i < written_len; i++) {
        struct written *w = &written[i];
        struct answer now;

        if (!stands(&w->permission))
            continue;
        n++;
        judge(w->permission.source, &w->permission.asked, &now);
        cr_assert_eq(now.destination, w->answer.destination, "step %u, %s: \"%s\" has outlived it", step,
                     after, w->answer.text);
        cr_assert_str_eq(now.text, w->answer.text, "step %u, %s", step, after);
    }
    return n;
}

static struct endpoint some_place(void)
{
    return (struct endpoint){sample_addr(addresses[lrand48() % 8]), lrand48() % 4 ? 8080 : 7000};
}

static void write_some(void)
{
    for (int i = 0; i < 6; i++) {
        struct pod *source = pods[lrand48() % PODS];
        struct endpoint asked = some_place();
        struct node_permission p;
        struct answer a;

        judge(source, &asked, &a);
        if (!a.destination)
            continue;
        p = begin(source, a.destination, &asked);
        keep(&p, &a);
    }
}

/* ---- what may change ---- */

static const char *any(const char *const list[], int len)
{
    return list[lrand48() % len];
}

static const char *change_workload(void)
{
    static const char *const services[] = {NULL, "shop/s0.shop.svc.cluster.local",
                                           "shop/s1.shop.svc.cluster.local"};
    static const char *const policies[] = {NULL, NULL, NULL, NULL, NULL, "shop/named", "shop/missing"};
    static const char *const waypoints[] = {NULL, NULL, NULL, "shop/way.shop.svc.cluster.local:15008"};
    unsigned i = (unsigned)(lrand48() % PODS);
    const char *service = any(services, 3);

    WORKLOAD(state(), .name = names[i], .node = "node-a", .addresses = {addresses[i]},
             .services = {{service, {{7000, 8080}}}}, .policies = {any(policies, 7)},
             .waypoint = any(waypoints, 4), .plain = lrand48() % 8 == 0, .status = lrand48() % 8 == 0);
    return "a pod's workload";
}

static const char *remove_workload(void)
{
    char uid[64];

    snprintf(uid, sizeof(uid), "Kubernetes//Pod/shop/%s", names[lrand48() % PODS]);
    state_remove(state(), STATE_ADDRESS, uid);
    return "a workload is gone";
}

/* Of another node; it may claim the address of a pod of this one. */
static const char *change_remote(void)
{
    static const char *const services[] = {NULL, "shop/s0.shop.svc.cluster.local",
                                           "shop/s2.shop.svc.cluster.local"};
    char name[16];

    snprintf(name, sizeof(name), "far%ld", lrand48() % 3);
    if (lrand48() % 2) {
        char uid[64];

        snprintf(uid, sizeof(uid), "Kubernetes//Pod/shop/%s", name);
        state_remove(state(), STATE_ADDRESS, uid);
        return "a workload of another node is gone";
    }
    WORKLOAD(state(), .name = name, .node = "node-b",
             .addresses = {lrand48() % 6 ? "10.8.0.1" : addresses[lrand48() % PODS]},
             .services = {{any(services, 3), {{7000, 8080}}}});
    return "a workload of another node";
}

static const char *change_service(void)
{
    static const char *const waypoints[] = {NULL, NULL, NULL, "shop/way.shop.svc.cluster.local:15008"};
    unsigned i = (unsigned)(lrand48() % SERVICES);
    char name[16], hostname[80];

    snprintf(name, sizeof(name), "s%u", i);
    if (lrand48() % 3 == 0) {
        snprintf(hostname, sizeof(hostname), "shop/%s.shop.svc.cluster.local", name);
        state_remove(state(), STATE_ADDRESS, hostname);
        return "a service is gone";
    }
    SERVICE(state(), .name = name, .waypoint = any(waypoints, 4),
            .addresses = {lrand48() % 8 ? addresses[5 + lrand48() % 3] : "10.96.0.0/24",
                          lrand48() % 8 ? NULL : addresses[lrand48() % PODS]},
            .ports = {{7000, 8080}, {8080, 8080}});
    return "a service";
}

static const char *change_policy(void)
{
    static const char *const policies[] = {"all", "space", "named"};
    unsigned scope = (unsigned)(lrand48() % 3);
    char key[32];

    if (lrand48() % 4) {
        snprintf(key, sizeof(key), "shop/%s", policies[scope]);
        state_remove(state(), STATE_AUTHORIZATION, key);
        return "a policy is gone";
    }
    POLICY(state(), .name = policies[scope], .scope = scope, .action = lrand48() % 2,
           .dry_run = lrand48() % 6 == 0, .rules_len = 1,
           .rules = {{.clauses_len = 1,
                      .clauses = {{.matches_len = 1,
                                   .matches = {{.destination_ports = {"8080"},
                                                .principals = {lrand48() % 2 ? "*/sa/web" : NULL}}}}}}});
    return "a policy";
}

static const char *change_pod(void)
{
    unsigned i = (unsigned)(lrand48() % PODS);

    pods[i]->draining = lrand48() % 8 == 0;
    pods[i]->addresses[0] = sample_addr(addresses[lrand48() % 8 ? i : lrand48() % PODS]);
    node_judge_pod_changed(site.proxy.node_judge, pods[i]);
    return "a pod";
}

static const char *(*const changes[])(void) = {
    change_workload, change_workload, change_workload, remove_workload, change_remote, change_remote,
    change_remote,   change_remote,   change_service,  change_service,  change_policy, change_pod};

Test(node_inputs, a_verdict_never_outlives_what_changed)
{
    unsigned long stood = 0;

    srand48(20261130);
    for (unsigned step = 0; step < STEPS; step++) {
        const char *after = "";
        struct pod *source = pods[lrand48() % PODS];
        struct endpoint asked = some_place();
        struct answer half;

        write_some();
        /* A worker that begins before a change, and judges while half of it is to be seen. */
        judge(source, &asked, &half);
        if (half.destination) {
            struct node_permission p = begin(source, half.destination, &asked);

            after = changes[lrand48() % array_size(changes)]();
            judge(source, &asked, &half);
            if (half.destination == p.destination)
                keep(&p, &half);
        }
        for (long n = lrand48() % 2; n >= 0; n--)
            after = changes[lrand48() % array_size(changes)]();
        commit();
        stood += look(after, step);
    }
    cr_expect_gt(written_len, STEPS / 4, "few were written");
    cr_expect_gt(stood, written_len, "few stood");
}

/* ---- one by one ---- */

static struct node_permission shop;

static void allow(void)
{
    const struct endpoint asked = {site.destination.addresses[0], 8080};
    struct answer a;

    judge(&site.source, &asked, &a);
    cr_assert_eq(a.destination, &site.destination);
    shop = begin(&site.source, &site.destination, &asked);
}

#define STANDS(does, ...)                                 \
    do {                                                  \
        allow();                                          \
        __VA_ARGS__;                                      \
        commit();                                         \
        cr_expect(stands(&shop) == (does), #__VA_ARGS__); \
    } while (0)

Test(node_inputs, what_does_not_concern_it_leaves_it_alone)
{
    commit();
    STANDS(true, );
    STANDS(true, WORKLOAD(state(), .name = "far", .node = "node-b", .addresses = {"10.8.0.1"}));
    STANDS(true, WORKLOAD(state(), .name = "cart", .node = "node-a", .addresses = {"10.9.0.3"}));
    STANDS(true, SERVICE(state(), .name = "s0", .addresses = {"10.96.0.1"}, .ports = {{7000, 8080}}));
    STANDS(true, WORKLOAD(state(), .name = "far", .node = "node-b", .addresses = {"10.8.0.1"},
                          .services = {{"shop/s0.shop.svc.cluster.local", {{7000, 8080}}}}));
    STANDS(true, POLICY(state(), .name = "theirs", .namespace = "elsewhere", .scope = 1, .action = 1));
    STANDS(true, POLICY(state(), .name = "named", .scope = 2, .action = 1));
    STANDS(true, others[0].draining = true; node_judge_pod_changed(site.proxy.node_judge, &others[0]));
    STANDS(true, state_remove(state(), STATE_ADDRESS, "Kubernetes//Pod/shop/far"));
}

Test(node_inputs, what_concerns_it_ends_it)
{
    commit();
    STANDS(false, WORKLOAD(state(), .name = "web", .node = "node-a", .addresses = {"10.9.0.9"}));
    STANDS(false, WORKLOAD(state(), .name = "shop", .node = "node-a", .addresses = {"10.9.0.1"}));
    STANDS(false, WORKLOAD(state(), .name = "far", .node = "node-b", .addresses = {"10.9.0.1"},
                           .uid = "cluster0/networking.istio.io/WorkloadEntry/shop/far"));
    STANDS(false, SERVICE(state(), .name = "range", .addresses = {"10.96.0.0/24"}, .ports = {{7000, 8080}}));
    STANDS(false, POLICY(state(), .name = "ours", .scope = 1, .dry_run = true));
    state_remove(state(), STATE_AUTHORIZATION, "shop/ours");
    commit();
    STANDS(false, POLICY(state(), .name = "all", .namespace = "istio-system", .scope = 0, .dry_run = true));
    state_remove(state(), STATE_AUTHORIZATION, "istio-system/all");
    commit();
    STANDS(false, others[0].addresses[0] = site.destination.addresses[0];
           node_judge_pod_changed(site.proxy.node_judge, &others[0]));
}

Test(node_inputs, more_changes_than_there_is_room_for_end_all)
{
    char name[32], address[32];

    commit();
    allow();
    for (unsigned i = 0; i < 300; i++) {
        snprintf(name, sizeof(name), "far%u", i);
        snprintf(address, sizeof(address), "10.8.%u.%u", i / 200, 1 + i % 200);
        WORKLOAD(state(), .name = name, .node = "node-b", .addresses = {address});
    }
    commit();
    cr_expect(!stands(&shop));
}
