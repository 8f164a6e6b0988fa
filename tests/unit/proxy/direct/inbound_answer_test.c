/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel is told of plaintext to a pod, and which of the connections it has passed are ended. */
#include "proxy/direct/inbound_answer.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "proxy/state/rcu.h"
#include "tests/unit/proxy/mesh_samples.h"

enum { GLOBAL, NAMESPACE, WORKLOAD_ONLY };
enum { ALLOW, DENY };

#define MATCH(...) \
    .rules_len = 1, .rules = {{.clauses_len = 1, .clauses = {{.matches_len = 1, .matches = {{__VA_ARGS__}}}}}}
#define STRICT \
    POLICY(state, .name = "strict", .scope = NAMESPACE, .action = DENY, MATCH(.not_principals = {"*"}))

static struct state *state;
static struct proxy proxy;
static struct pod pod;
static struct bruma_direct_pod entry;
static char some_cutter; /* that there is one is all that counts */

static void workload(const char *policy)
{
    WORKLOAD(state, .name = "cart", .node = "node-a", .addresses = {"10.1.0.9"}, .policies = {policy});
}

static void setup(void)
{
    state = sample_state();
    proxy = (struct proxy){.state = state};
    pod = (struct pod){.proxy = &proxy, .name = "cart", .namespace = "shop", .service_account = "cart"};
    workload(NULL);
}

static void teardown(void)
{
    workload_unref(pod.inbound.workload);
    state_free(&state);
}

TestSuite(direct_inbound, .init = setup, .fini = teardown);

static bool fill(bool changing)
{
    state_commit(state);
    entry = (struct bruma_direct_pod){.ways = BRUMA_DIRECT_OUTSIDE};
    return direct_inbound_fill(&pod, (const struct cutter *)(void *)&some_cutter, changing, &entry);
}

static bool says(uint32_t ways, enum bruma_long_way why)
{
    return entry.ways == (ways | BRUMA_DIRECT_OUTSIDE) && entry.inbound_why == why;
}

Test(direct_inbound, answers)
{
    uint32_t changes;

    cr_expect(fill(false) && says(BRUMA_DIRECT_PASS, BRUMA_LONG_WAY_NONE), "the first answer is news");
    cr_expect(entry.inbound_changes > 0);
    changes = entry.inbound_changes;
    cr_expect(!fill(false) && entry.inbound_changes == changes);
    STRICT;
    cr_expect(fill(false) && says(BRUMA_DIRECT_REFUSE, BRUMA_LONG_WAY_NONE));
    cr_expect(entry.inbound_changes == changes + 1);
    state_remove(state, STATE_AUTHORIZATION, "shop/strict");
    POLICY(state, .name = "p", .scope = NAMESPACE, .action = DENY, MATCH(.source_ips = {"10.9.0.0/16"}));
    cr_expect(fill(false) && says(0, BRUMA_LONG_WAY_POLICY_DEPENDS));
    POLICY(state, .name = "p", .scope = NAMESPACE, .action = DENY, .dry_run = true,
           MATCH(.source_ips = {"10.9.0.0/16"}));
    changes = entry.inbound_changes;
    cr_expect(!fill(false) && says(0, BRUMA_LONG_WAY_POLICY_DRY_RUN), "another reason for the same way");
    cr_expect(entry.inbound_changes == changes);
    state_remove(state, STATE_AUTHORIZATION, "shop/p");
    workload("shop/late");
    cr_expect(!fill(false) && says(0, BRUMA_LONG_WAY_POLICY_MISSING));
    workload(NULL);
    cr_expect(fill(false) && says(BRUMA_DIRECT_PASS, BRUMA_LONG_WAY_NONE));
    pod.inbound.changes = UINT32_MAX;
    STRICT;
    cr_expect(fill(false) && entry.inbound_changes == 1, "0 is of no answer");
}

Test(direct_inbound, what_takes_the_long_way)
{
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/cart");
    cr_expect(fill(false) && says(0, BRUMA_LONG_WAY_WORKLOAD_UNKNOWN));
    WORKLOAD(state, .name = "cart", .node = "node-a", .addresses = {"10.1.0.9"}, .tunnel = true,
             .tunnel_protocol = 1);
    cr_expect(!fill(false) && says(0, BRUMA_LONG_WAY_PROXY_HEADER));
    workload(NULL);
    cr_expect(fill(false) && says(BRUMA_DIRECT_PASS, BRUMA_LONG_WAY_NONE));
    pod.draining = true;
    cr_expect(fill(false) && says(0, BRUMA_LONG_WAY_ENDING));
    pod.draining = false;
    pod.ending = true;
    cr_expect(!fill(false) && says(0, BRUMA_LONG_WAY_ENDING));
    pod.ending = false;
    proxy.draining = true;
    cr_expect(!fill(false) && says(0, BRUMA_LONG_WAY_ENDING));
    proxy.draining = false;
    proxy.on_demand = (struct on_demand *)(void *)&some_cutter;
    cr_expect(!fill(false) && says(0, BRUMA_LONG_WAY_ON_DEMAND));
    proxy.on_demand = NULL;
    pod.direct_inbound = DIRECT_OFF;
    cr_expect(!fill(false) && says(0, BRUMA_LONG_WAY_SWITCHED_OFF_FOR_POD));
    pod.bypass_inbound = true;
    cr_expect(fill(false) && says(BRUMA_DIRECT_BYPASS, BRUMA_LONG_WAY_NONE), "no policy has a say in it");
    pod.redirected = true;
    cr_expect(fill(false) && says(0, BRUMA_LONG_WAY_SWITCHED_OFF));
}

Test(direct_inbound, who_cannot_end_passes_nothing)
{
    entry = (struct bruma_direct_pod){};
    state_commit(state);
    direct_inbound_fill(&pod, NULL, false, &entry);
    cr_expect(!entry.ways && entry.inbound_why == BRUMA_LONG_WAY_NO_KERNEL);
    STRICT;
    state_commit(state);
    direct_inbound_fill(&pod, NULL, false, &entry);
    cr_expect(entry.ways == BRUMA_DIRECT_REFUSE, "that leaves nothing to be ended");
}

Test(direct_inbound, nothing_is_passed_while_policies_change)
{
    uint32_t changes;

    fill(false);
    changes = entry.inbound_changes;
    cr_expect(!fill(true) && says(0, BRUMA_LONG_WAY_POLICY_CHANGING) && entry.inbound_changes == changes);
    cr_expect(!fill(false) && says(BRUMA_DIRECT_PASS, BRUMA_LONG_WAY_NONE), "and nothing has come of it");
    cr_expect(entry.inbound_changes == changes);
    STRICT;
    fill(false);
    cr_expect(!fill(true) && says(BRUMA_DIRECT_REFUSE, BRUMA_LONG_WAY_NONE), "what is refused stays so");
}

/* ---- told before readers see it ---- */

static int announced, allowed_then;

static bool allowed(void)
{
    struct policy_request request = {.source = sample_endpoint("10.9.0.1:1000"),
                                     .destination = sample_endpoint("10.1.0.9:8080")};
    const struct workload *cart = state_find_local(state, "shop", "cart", "");
    struct policy_verdict verdict;

    if (!cart)
        return false;
    policy_check(state, cart, &request, &verdict);
    return verdict.allowed;
}

static void on_changing(void *data)
{
    (void)data;
    announced++;
    allowed_then += allowed();
}

static bool once(void)
{
    bool good = announced == 1;

    announced = 0;
    return good;
}

Test(direct_inbound, changes_are_announced)
{
    char error[64];
    uint8_t junk = 0xff;

    state_commit(state);
    state_watch_policies(state, on_changing, NULL);
    sample_changes = (struct sample_changes){};
    STRICT;
    cr_expect(announced == 1 && allowed_then == 1, "the policies of before were in force");
    POLICY(state, .name = "q", .scope = NAMESPACE, .action = DENY);
    cr_expect(once(), "once for all of a response");
    state_commit(state);
    cr_expect(!allowed() && !announced && sample_changes.policies == 1);
    state_remove(state, STATE_AUTHORIZATION, "shop/strict");
    state_commit(state);
    cr_expect(once() && allowed());
    /* what a workload names; others' policies and other news of a workload are none of it */
    POLICY(state, .name = "w", .scope = WORKLOAD_ONLY, .action = DENY, MATCH(.not_principals = {"*"}));
    state_commit(state);
    once();
    allowed_then = 0;
    workload("shop/w");
    cr_expect(once() && allowed_then == 1 && !allowed());
    state_commit(state);
    workload("shop/w");
    WORKLOAD(state, .name = "other", .node = "node-b", .addresses = {"10.1.0.8"});
    state_commit(state);
    cr_expect(!announced);
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/cart");
    cr_expect(once());
    state_commit(state);
    /* what is announced ends with the commit, even if nothing has come of it */
    sample_changes = (struct sample_changes){};
    state_remove(state, STATE_AUTHORIZATION, "shop/nothing");
    state_commit(state);
    cr_expect(once() && sample_changes.policies == 1);
    cr_expect(state_apply(state, STATE_AUTHORIZATION, "x", &junk, 1, error, sizeof(error)) < 0 && !announced);
}

/* ---- which are ended ---- */

static void put(struct bruma_address *to, uint32_t *port, const char *text)
{
    struct endpoint e = sample_endpoint(text);

    memcpy(to->bytes, e.addr.bytes, sizeof(to->bytes));
    *port = e.port;
}

static bool condemned(const char *remote, const char *local, bool final, bool *ret_missing)
{
    struct bruma_flow flow = {.way = BRUMA_DIRECT_PASS, .state = BRUMA_FLOW_ESTABLISHED};

    put(&flow.tuple.remote_address, &flow.tuple.remote_port, remote);
    put(&flow.tuple.local_address, &flow.tuple.local_port, local);
    state_commit(state);
    return cutter_condemns(state, state_find_local(state, "shop", "cart", ""), &flow, final, ret_missing);
}

Test(direct_inbound, judged_by_real_addresses)
{
    bool missing = false;

    POLICY(state, .name = "p", .scope = NAMESPACE, .action = DENY,
           MATCH(.source_ips = {"10.9.0.0/16"}, .destination_ports = {"8080"}));
    cr_expect(condemned("10.9.1.1:4000", "10.1.0.9:8080", false, &missing));
    cr_expect(!condemned("10.8.1.1:4000", "10.1.0.9:8080", false, &missing));
    cr_expect(!condemned("10.9.1.1:4000", "10.1.0.9:8081", false, &missing));
    cr_expect(!condemned("[fd00::1]:4000", "[fd00::9]:8080", false, &missing) && !missing);
    /* one that has not arrived is waited for */
    workload("shop/late");
    cr_expect(!condemned("10.8.1.1:4000", "10.1.0.9:8080", false, &missing) && missing);
    cr_expect(condemned("10.9.1.1:4000", "10.1.0.9:8080", false, &missing), "denied by another one already");
    cr_expect(condemned("10.8.1.1:4000", "10.1.0.9:8080", true, &missing));
    state_set_unknown_policy(state, false);
    cr_expect(!condemned("10.8.1.1:4000", "10.1.0.9:8080", true, &missing));
}
