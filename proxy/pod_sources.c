/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "main"
#include "proxy/pod_sources.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bruma/mesh.h"
#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/direct/direct.h"
#include "proxy/direct/node_judge.h"
#include "proxy/drain.h"
#include "proxy/flows/flows.h"
#include "proxy/handover/handover.h"
#include "proxy/handover/rendezvous.h"
#include "proxy/proxy.h"
#include "proxy/search_domains.h"

static void agent_pod_drained(struct proxy *p, const char *uid)
{
    agent_client_pod_drained(p->agent, uid);
}

static void agent_listener_closed(struct proxy *p, const char *uid)
{
    agent_client_listener_closed(p->agent, uid);
}

static void zds_listener_closed(struct proxy *p, const char *uid)
{
    zds_client_listener_closed(p->zds, uid);
}

static void own_listener_closed(struct proxy *p)
{
    own_pod_listener_closed(p->own);
}

static int agent_direct(struct proxy *p, const struct direct_switches *switches,
                        int fds[BRUMA_DIRECT_FD_COUNT])
{
    int r = fds ? flows_take_maps(p->flows, fds[BRUMA_DIRECT_FD_CONTROL], fds[BRUMA_DIRECT_FD_FLOWS],
                                  fds[BRUMA_DIRECT_FD_EVENTS])
                : 0;

    if (r < 0)
        log_error_errno(r, "events of direct connections are not read");
    return direct_take_maps(p->direct, switches, fds);
}

static int agent_direct_node(struct proxy *p, int fds[BRUMA_NODE_FD_COUNT])
{
    return node_judge_take_maps(p->node_judge, fds);
}

/* On the reader's thread. */
static void flow_opened(void *data, uint64_t socket_cookie, const struct bruma_flow *flow)
{
    const struct proxy *p = data;

    (void)socket_cookie;
    direct_passed(p->direct, flow);
}

static void flow_condemned(void *data, struct pod *pod, uint64_t socket_cookie, const struct bruma_flow *flow)
{
    const struct proxy *p = data;

    direct_condemned(p->direct, pod->fds[BRUMA_POD_FD_NETNS], socket_cookie, flow);
}

/* Events of direct connections are told by the pods and the mesh as they are known, so both must be. */
static void read_flows(struct proxy *p)
{
    if (p->serves && agent_client_ready(p->agent) && !agent_client_replaced(p->agent))
        flows_serve(p->flows);
}

static int agent_give(struct proxy *p, int fd)
{
    return handover_give(p->handover, fd);
}

static int agent_take(struct proxy *p, int fd, int pidfd)
{
    return handover_take(p->handover, fd, pidfd);
}

static void agent_named(struct proxy *p)
{
    read_flows(p);
    direct_pods_named(p->direct);
}

static void unwanted(struct proxy *p)
{
    direct_pods_taken(p->direct);
}

static void replaced(struct proxy *p, uint64_t deadline_milliseconds)
{
    flows_let_go(p->flows);
    proxy_replaced(p, deadline_milliseconds);
}

static void resumed(struct proxy *p)
{
    read_flows(p);
    proxy_resume(p);
}

static void handed_over(struct proxy *p, const struct handed_over *told)
{
    agent_client_handed_over(p->agent, told);
}

const struct handover_events pod_sources_handover_events = {.gave = proxy_gave, .told = handed_over};

cJSON *pod_sources_hand_over(void *proxy)
{
    return handover_dump(((struct proxy *)proxy)->handover);
}

void pod_sources_serve(struct proxy *p)
{
    p->serves = true;
    if (!p->agent)
        return;
    agent_client_serves(p->agent);
    read_flows(p);
}

static int open_agent_client(struct proxy *p)
{
    static const struct pods_events pods_events = {.drained = agent_pod_drained,
                                                   .listener_closed = agent_listener_closed,
                                                   .own_listener_closed = own_listener_closed};
    static const struct agent_client_events events = {.replaced = replaced,
                                                      .resumed = resumed,
                                                      .direct = agent_direct,
                                                      .direct_node = agent_direct_node,
                                                      .give = agent_give,
                                                      .take = agent_take,
                                                      .named = agent_named,
                                                      .unwanted = unwanted};
    const char *chosen = p->settings.agent_socket;
    char socket[108];
    int r;

    if ((*chosen ? snprintf(socket, sizeof(socket), "%s", chosen)
                 : snprintf(socket, sizeof(socket), "%s/%s", p->settings.run_dir, BRUMA_AGENT_SOCKET)) >=
        (int)sizeof(socket))
        return log_error_errno(ENAMETOOLONG, "the agent's socket");
    p->pods_events = &pods_events;
    r = flows_start(p, &p->flows);
    flows_set_judge(p->flows,
                    &(struct flows_judge){.opened = flow_opened, .condemned = flow_condemned, .data = p});
    if (r < 0)
        return log_error_errno(r, "cannot start the reader of direct connections");
    r = agent_client_new(p->loop, p, socket, &events, &p->agent);
    if (r < 0)
        return log_error_errno(r, "cannot set up the agent's connection");
    if (!p->xds) /* nobody to ask; otherwise on_xds_ready() says it */
        pod_sources_serve(p);
    return 0;
}

/* It has what it needs to serve, and so to take over. */
static bool zds_ready(const struct proxy *p)
{
    return p->serves && zds_client_ready(p->zds);
}

static int open_rendezvous(struct proxy *p)
{
    static const struct rendezvous_events events = {.ready = zds_ready, .alone = proxy_gave};
    int r = *p->settings.hand_over_socket
                ? rendezvous_new(p, p->settings.hand_over_socket, &events, &p->rendezvous)
                : 0;

    return r < 0 ? log_error_errno(r, "cannot set up the hand-over socket") : 0;
}

static int open_zds_client(struct proxy *p)
{
    static const struct pods_events pods_events = {.listener_closed = zds_listener_closed,
                                                   .own_listener_closed = own_listener_closed};
    const struct pod_listener_options options = {
        .dns = p->settings.answers_dns,
        .mark = (uint32_t)p->settings.packet_mark,
        .ipv6 = p->settings.ipv6,
        .reuse_port = p->settings.port_reuse,
        .transparent = p->settings.original_source,
    };
    char error[256] = "";
    int r = pod_listeners_possible(&options, p->own_netns_fd, error, sizeof(error));

    if (r < 0) {
        log_error("%s", error);
        return r;
    }
    if (!options.dns)
        log_warn("DNS is not answered; names may not be resolved in the CNI agent's pods	reason=%s "
                 "check=\"%s\"",
                 reason_name(BRUMA_REASON_DNS_NOT_SERVED), reason_check(BRUMA_REASON_DNS_NOT_SERVED));
    p->pods_events = &pods_events;
    r = zds_client_new(p->loop, p, p->settings.zds_socket, &options, p->own_netns_fd, p->fail, &p->zds);
    return r < 0 ? log_error_errno(r, "cannot set up the CNI agent's connection") : open_rendezvous(p);
}

/* HBONE for the proxy's own pod: so that the mesh reaches its metrics. */
static int open_own_pod(struct proxy *p)
{
    const struct proxy_settings *s = &p->settings;
    const struct own_pod_config config = {
        .namespace = s->own[0],
        .name = s->own[1],
        .service_account = s->own[2],
        .trust_domain = s->trust_domain,
        .hides_clients = true,
        .options = {.ipv6 = s->ipv6, .reuse_port = s->port_reuse, .hbone_only = true},
    };
    int r = s->own_hbone ? own_pod_new(p->loop, p, &config, p->own_netns_fd, &p->own) : 0;

    return r < 0 ? log_error_errno(r, "cannot set up the proxy's own pod") : 0;
}

/* The machine, or the pod, that the proxy runs in: its rules are made by others. */
static int open_dedicated(struct proxy *p)
{
    static const struct pods_events pods_events = {.own_listener_closed = own_listener_closed};
    const struct proxy_settings *s = &p->settings;
    const struct own_pod_config config = {
        .namespace = s->own[0],
        .name = s->own[1],
        .service_account = s->own[2],
        .trust_domain = s->trust_domain,
        .hides_clients = !s->original_source,
        .options =
            {
                .dns = s->answers_dns,
                .mark = (uint32_t)s->packet_mark,
                .ipv6 = s->ipv6,
                .reuse_port = s->port_reuse,
                .transparent = s->original_source,
                .diverted = true,
            },
    };
    int r;

    p->pods_events = &pods_events;
    r = search_domains_load(&p->settings.search_domains);
    if (r == 0)
        r = own_pod_new(p->loop, p, &config, p->own_netns_fd, &p->own);
    return r < 0 ? log_error_errno(r, "cannot set up the proxy's own pod") : 0;
}

int pod_sources_open(struct proxy *p)
{
    int r;

    if (p->settings.dedicated)
        return open_dedicated(p);
    r = *p->settings.zds_socket ? open_zds_client(p) : open_agent_client(p);

    return r < 0 ? r : open_own_pod(p);
}
