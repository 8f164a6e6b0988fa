/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/flows/flows_site.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/proxy.h"
#include "proxy/state/rcu.h"

struct proxy site_proxy;
struct pod *site_pod;

struct pod *site_pod_new(uint64_t cookie, const char *name, int netns)
{
    const struct pod_words words = {.uid = name,
                                    .name = name,
                                    .namespace = "shop",
                                    .service_account = "cart",
                                    .trust_domain = "cluster.local"};
    struct pod *pod = calloc(1, sizeof(*pod));

    cr_assert(pod != NULL);
    pod->references = 1;
    pod->proxy = &site_proxy;
    pod->cookie = cookie;
    pod->uid = strdup(name);
    pod->name = strdup(name);
    pod->namespace = strdup("shop");
    pod->service_account = strdup("cart");
    pod->trust_domain = strdup("cluster.local");
    for (int i = 0; i < BRUMA_POD_FD_COUNT; i++)
        pod->fds[i] = -1;
    pod->fds[BRUMA_POD_FD_NETNS] = netns;
    for (int i = 0; i < 2; i++)
        pod->dns_fds[i] = pod->socks_fds[i] = -1;
    dns_servers_init(&pod->dns_servers);
    cr_assert(state_placeholder(site_proxy.state, &words, &pod->placeholder) == 0);
    return pod;
}

void site_setup(void)
{
    reader_register();
    site_proxy = (struct proxy){.state = sample_state(), .own_netns_fd = -1};
    cr_assert(loop_new(&site_proxy.loop) == 0);
    cr_assert(WORKLOAD(site_proxy.state, .name = "cart", .node = "node-a", .cluster = "Kubernetes",
                       .addresses = {"10.1.0.7"}) == 0);
    cr_assert(
        WORKLOAD(site_proxy.state, .name = "redis", .cluster = "Kubernetes", .addresses = {"10.1.3.9"}) == 0);
    cr_assert(WORKLOAD(site_proxy.state, .name = "old", .addresses = {"10.1.3.4"}, .plain = true) == 0);
    state_commit(site_proxy.state);
    site_pod = site_pod_new(POD_COOKIE, "cart", -1);
}

static void stop(void *data)
{
    loop_stop(data);
}

/* Pods whose last reference is given back are freed by the loop. */
void site_teardown(void)
{
    pod_unref(site_pod);
    cr_assert(loop_post(site_proxy.loop, stop, site_proxy.loop) == 0);
    reader_offline();
    loop_run(site_proxy.loop);
    reader_online();
    loop_free(&site_proxy.loop);
    state_free(&site_proxy.state);
    reader_unregister();
}

uint64_t site_nanoseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void put(const char *text, struct bruma_address *address, __u32 *port)
{
    struct endpoint e = sample_endpoint(text);

    memcpy(address->bytes, e.addr.bytes, sizeof(address->bytes));
    *port = e.port;
}

struct bruma_flow_event site_event(enum bruma_flow_event_kind kind, enum bruma_direct_way way,
                                   const char *remote, unsigned milliseconds)
{
    struct bruma_flow_event e = {
        .kind = kind,
        .now_nanoseconds = site_nanoseconds(),
        .socket_cookie = kind == BRUMA_FLOW_REFUSED ? 0 : FIRST_SOCKET,
        .flow = {.netns_cookie = POD_COOKIE,
                 .generation = 1,
                 .way = way,
                 .state = kind == BRUMA_FLOW_FAILED ? BRUMA_FLOW_CONNECTING : BRUMA_FLOW_ESTABLISHED},
    };

    e.flow.opened_nanoseconds = e.now_nanoseconds - milliseconds * UINT64_C(1000000);
    put("10.1.0.7:40000", &e.flow.tuple.local_address, &e.flow.tuple.local_port);
    put(remote, &e.flow.tuple.remote_address, &e.flow.tuple.remote_port);
    return e;
}
