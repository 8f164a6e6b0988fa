/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/same_node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/connection/admission.h"
#include "proxy/connection/demand.h"
#include "proxy/connection/inbound.h"
#include "proxy/connection/proxy_header.h"
#include "proxy/connection/retry.h"
#include "proxy/pod/same_node_way.h"
#include "proxy/route/endpoints.h"
#include "proxy/route/policy.h"
#include "proxy/socket/socket.h"
#include "proxy/telemetry/tracing.h"
#include "proxy/verdicts/node_verdicts.h"

enum { CLIENT = 0, OTHER = 1 };

/* Until the other pod's policies have answered; then it is a relay. */
struct crossing {
    struct connection c;        /* the client's pod's */
    struct connection in;       /* the other's */
    struct admission admission; /* of in */
    struct loop_timer timer;    /* to the answer */
    relay_failed_fn failed;
    int fd;
    struct endpoint target, original;
    bool proxy_header;
};

/* ---- whether ---- */

/* Whose address it is. One that two pods have, such as a former one whose end nobody has told yet, is in
 * doubt. */
static struct worker_pod *pod_at(struct worker *w, const struct addr *addr, unsigned *ret_many)
{
    struct worker_pod *wp, *found = NULL;

    *ret_many = 0;
    list_for_each (wp, &w->pods, node) {
        if (!pod_has_address(wp->pod, addr))
            continue;
        found = wp;
        ++*ret_many;
    }
    return found;
}

static bool is_only_pod_at(struct worker *w, const struct worker_pod *wp, const struct addr *addr)
{
    unsigned many;

    return pod_at(w, addr, &many) == wp && many == 1;
}

/* The address from which a tunnel of the pod would come; more than one: the kernel's choice. */
static const struct addr *only_address(const struct pod *pod, bool v4)
{
    const struct addr *found = NULL;

    for (int i = 0; i < pod->addresses_len; i++) {
        if (addr_is_v4(&pod->addresses[i]) != v4)
            continue;
        if (found)
            return NULL;
        found = &pod->addresses[i];
    }
    return found;
}

static enum same_node_why part_of(const struct worker_pod *wp)
{
    return wp->deleted || wp->draining || loop_timer_armed(&wp->ending)
               ? SAME_NODE_WHY_ENDING
               : same_node_allows(wp->worker->proxy, wp->pod);
}

static enum same_node_why find(const struct connection *c, const struct route *route,
                               struct same_node_way *way)
{
    struct worker *w = connection_worker(c);
    const struct tls_expected expected = {route->upstream, route->expected_service};
    const struct addr *client;
    enum same_node_why why;
    unsigned many;

    way->target = (struct endpoint){route->target.addr, route->application_port};
    way->to = route->kind == ROUTE_HBONE ? pod_at(w, &way->target.addr, &many) : NULL;
    if (!way->to)
        return SAME_NODE_WHY_ELSEWHERE;
    why = part_of(c->wp);
    if (!why)
        why = w->draining ? SAME_NODE_WHY_ENDING : part_of(way->to);
    if (why)
        return why;
    if (!route->application_port)
        return SAME_NODE_WHY_INDIRECT;
    if (way->to == c->wp)
        return SAME_NODE_WHY_ITSELF;
    client = only_address(c->wp->pod, addr_is_v4(&way->target.addr));
    if (many > 1 || worker_pod_workload(way->to) != route->upstream || !client ||
        !is_only_pod_at(w, c->wp, client))
        return SAME_NODE_WHY_ADDRESS_IN_DOUBT;
    way->client = (struct endpoint){*client, c->client.port};
    way->certificates[CLIENT] = worker_pod_context(c->wp);
    way->certificates[OTHER] = worker_pod_context(way->to);
    if (!way->certificates[CLIENT] || !way->certificates[OTHER])
        return SAME_NODE_WHY_CERTIFICATE_MISSING;
    return tls_vouches(&w->tls, way->certificates[CLIENT], way->certificates[OTHER], &expected)
               ? SAME_NODE_WHY_NONE
               : SAME_NODE_WHY_NOT_VOUCHED;
}

bool same_node_find(const struct connection *c, const struct route *route, struct same_node_way *ret)
{
    struct same_node_way way = {};
    enum same_node_why why = find(c, route, &way);

    telemetry_same_node(connection_worker(c)->telemetry, why);
    if (why == SAME_NODE_WHY_NONE)
        *ret = way;
    else
        same_node_release(&way);
    return why == SAME_NODE_WHY_NONE;
}

void same_node_release(struct same_node_way *way)
{
    for (int i = 0; i < 2; i++) {
        tls_context_unref(way->certificates[i]);
        way->certificates[i] = NULL;
    }
}

/* ---- its end ---- */

static void stop_waiting(struct crossing *n)
{
    worker_wait_cancel(&n->admission.waiter);
    loop_timer_cancel(&n->timer);
}

static void end_client(struct crossing *n, enum bruma_reason reason, const char *detail)
{
    socket_reset_on_close(n->fd);
    close(n->fd);
    connection_close(&n->c, reason, detail);
}

/* The other pod does not take it. Another endpoint is tried of what is a matter of this one alone. */
static void refuse(struct crossing *n, bool elsewhere, enum bruma_reason client_reason,
                   const char *client_detail, enum bruma_reason reason, const char *detail)
{
    struct loop *loop = connection_worker(&n->c)->loop;

    stop_waiting(n);
    connection_close(&n->in, reason, detail);
    if (!elsewhere || !n->failed(&n->c, n->fd, client_reason))
        end_client(n, client_reason, client_detail);
    loop_free_later(loop, n);
}

static void refuse_status(struct crossing *n, int status, enum bruma_reason reason, const char *detail)
{
    char text[REJECTED_TEXT_LEN];

    refuse(n, status == 503, BRUMA_REASON_CONNECT_REJECTED, retry_rejected_text(status, text), reason,
           detail);
}

static void give_up(struct crossing *n, enum bruma_reason reason, const char *detail)
{
    struct loop *loop = connection_worker(&n->c)->loop;

    stop_waiting(n);
    connection_close(&n->in, BRUMA_REASON_NONE, NULL);
    end_client(n, reason, detail);
    loop_free_later(loop, n);
}

static void abort_client(struct connection *c, enum bruma_reason reason, const char *detail)
{
    give_up(container_of(c, struct crossing, c), reason, detail);
}

static void abort_other(struct connection *in, enum bruma_reason reason, const char *detail)
{
    refuse(container_of(in, struct crossing, in), true, BRUMA_REASON_PEER_RESET, NULL, reason, detail);
}

bool same_node_waits(const struct connection *c)
{
    return c->abort == abort_client;
}

int same_node_let_go(struct connection *c, struct connection_past *ret)
{
    struct crossing *n = container_of(c, struct crossing, c);
    int fd;

    if (!same_node_waits(c))
        return -1;
    fd = n->fd;
    stop_waiting(n);
    connection_close(&n->in, BRUMA_REASON_NONE, NULL);
    connection_undecide(c, ret);
    loop_free_later(connection_worker(c)->loop, n);
    return fd;
}

static void on_timer(struct loop_timer *timer)
{
    give_up(container_of(timer, struct crossing, timer), BRUMA_REASON_CONNECT_ANSWER_TIMEOUT, NULL);
}

/* ---- what the other pod says ---- */

static struct crossing *of_admission(const struct admission *a)
{
    return container_of(a->c, struct crossing, in);
}

static int describe(struct crossing *n, const struct workload *local, const struct inbound_target *target)
{
    const struct workload *source = worker_pod_workload(n->c.wp);
    struct trace_parent parent = tracing_parent(&n->c.flow);
    char baggage[1024];
    int r;

    baggage_format(worker_pod_source(n->c.wp), baggage, sizeof(baggage));
    if (source)
        workload_ref(source);
    workload_ref(local);
    n->in.flow.same_node = true;
    telemetry_trace(connection_worker(&n->in)->telemetry, &n->in.flow, &parent);
    r = connection_describe(&n->in, source, local, target->service, n->in.peer_certificate->identity, baggage,
                            NULL);
    if (r < 0) {
        workload_unref(source);
        workload_unref(local);
        service_unref(target->service);
    }
    return r;
}

/* As a request that names it would be placed. */
static void find_target(struct crossing *n, const struct workload *local, const char *authority,
                        struct inbound_target *ret)
{
    const struct service *service = n->c.flow.service;
    const struct endpoint arrival = {n->target.addr, BRUMA_PORT_HBONE};
    char forwarded[300] = "";

    if (service)
        snprintf(forwarded, sizeof(forwarded), "host=%s", service->hostname);
    route_inbound(connection_worker(&n->c)->state, local, &arrival, authority, strlen(authority),
                  service ? forwarded : NULL, strlen(forwarded), ret);
    if (ret->status == 200 && worker_pod_listens(n->in.wp, ret->target.port)) {
        ret->status = 503;
        ret->reason = BRUMA_REASON_SELF_CALL;
    }
}

static enum admission_step place(struct admission *a, bool timed_out)
{
    struct crossing *n = of_admission(a);
    const struct endpoint arrival = {n->target.addr, BRUMA_PORT_HBONE};
    char authority[ENDPOINT_TEXT_LEN], detail[ENDPOINT_TEXT_LEN + 16];
    struct inbound_target target = {};
    const struct workload *local;
    enum admission_step step;
    int r;

    endpoint_format(&n->target, authority);
    if (!admission_needs_workload(a, timed_out, &local, &step))
        return step;
    if (!demand_inbound(a, local, &arrival, authority, timed_out))
        return ADMISSION_WAITS;
    find_target(n, local, authority, &target);
    if (target.status != 200) {
        snprintf(detail, sizeof(detail), "authority \"%s\"", authority);
        service_unref(target.service);
        refuse_status(n, target.status, target.reason, detail);
        return ADMISSION_OVER;
    }
    n->in.destination = target.target;
    n->proxy_header = target.proxy_header;
    n->original = target.original;
    r = describe(n, local, &target);
    if (r < 0) {
        refuse_status(n, 503, r == -ENOBUFS ? BRUMA_REASON_MEMORY_BUDGET : BRUMA_REASON_OUT_OF_RESOURCES,
                      NULL);
        return ADMISSION_OVER;
    }
    return ADMISSION_POLICIES;
}

static void open_connection(struct admission *a)
{
    connection_open(a->c, &of_admission(a)->target); /* as the other side says it */
}

/* ---- what the kernel may do from now on ---- */

static bool in_kernel(const struct worker_pod *wp)
{
    return part_of(wp) == SAME_NODE_WHY_NONE &&
           atomic_load_explicit(&wp->pod->same_node, memory_order_relaxed) == SAME_NODE_KERNEL;
}

/* Each is of one pod, which has no other of that family. */
static bool addresses_stand(struct crossing *n)
{
    struct worker *w = connection_worker(&n->c);
    const struct addr *client = only_address(n->c.wp->pod, addr_is_v4(&n->target.addr));

    return client && addr_equal(client, &n->in.client.addr) && is_only_pod_at(w, n->c.wp, client) &&
           is_only_pod_at(w, n->in.wp, &n->target.addr);
}

/* Whether the application's destination leads to this endpoint alone, however often it is asked, until it is
 * told of as touched (state_watch_routes). */
static bool leads_there_alone(struct crossing *n)
{
    struct worker *w = connection_worker(&n->c);
    const struct workload *local = worker_pod_source(n->c.wp);
    const struct endpoint_filter others = {.tried = &n->c.endpoint, .tried_len = 1};
    uint64_t random = 1;
    struct route route, other;
    bool alone;

    route_outbound(w->state, local, &n->c.destination, &random, NULL, &route);
    alone = route.kind == ROUTE_HBONE && !route.gateway && !route.via_waypoint &&
            route.upstream == worker_pod_workload(n->in.wp) &&
            addr_equal(&route.target.addr, &n->target.addr) && route.application_port == n->target.port &&
            !route_refers(&route);
    route_release(&route);
    if (!alone || endpoint_equal(&n->c.destination, &n->target))
        return alone;
    if (!n->c.endpoint.port)
        return false;
    route_outbound(w->state, local, &n->c.destination, &random, &others, &other);
    alone = other.kind == ROUTE_FAILED && !route_refers(&other);
    route_release(&other);
    return alone;
}

/* The policies say yes, whatever the client's port, and none of them wants to see each connection. */
static bool is_allowed_ever(struct crossing *n)
{
    const struct state *state = connection_worker(&n->c)->state;
    const struct workload *local = worker_pod_workload(n->in.wp);
    const struct policy_request request = {
        .source = n->in.client, .destination = n->in.destination, .identity = n->in.peer_identity};
    struct policy_verdict verdict;
    struct policy_anyone anyone;

    if (!local || !request.identity)
        return false;
    policy_check(state, local, &request, &verdict);
    policy_check_anyone(state, local, &anyone);
    return verdict.allowed && !verdict.unknown && !local->application_tunnel_protocol &&
           anyone.answer != POLICY_ANSWER_DRY_RUN && anyone.answer != POLICY_ANSWER_MISSING;
}

/* Those that were looked at are in use still. */
static bool certificates_stand(struct crossing *n)
{
    struct tls_context *client = worker_pod_context(n->c.wp), *other = worker_pod_context(n->in.wp);
    bool same = client && client == n->in.peer_certificate && other && other == n->c.peer_certificate;

    tls_context_unref(client);
    tls_context_unref(other);
    return same;
}

static bool may_stay_in_kernel(struct crossing *n, const struct relay_delivery *to)
{
    struct proxy *proxy = n->in.wp->worker->proxy;

    return in_kernel(n->c.wp) && in_kernel(n->in.wp) &&
           atomic_load_explicit(&proxy->same_node, memory_order_relaxed) == SAME_NODE_KERNEL && !n->c.news &&
           !proxy->on_demand && !proxy->revoked && !n->proxy_header && to->client &&
           addr_equal(to->client, &n->in.client.addr) && endpoint_equal(&to->target, &n->in.destination) &&
           endpoint_equal(&n->in.destination, &n->target) && addresses_stand(n) && certificates_stand(n) &&
           leads_there_alone(n) && is_allowed_ever(n);
}

/* Where the kernel may carry what is between pods, the next such connection need not come by here. All is
 * asked anew, behind the generation: what was found out before may be of before a change. */
static void tell_kernel(struct crossing *n, const struct relay_delivery *to)
{
    struct proxy *proxy = n->in.wp->worker->proxy;
    const struct tls_context *client = n->in.peer_certificate, *other = n->c.peer_certificate;
    struct node_permission p = {.source = n->c.wp->pod,
                                .destination = n->in.wp->pod,
                                .source_address = n->in.client.addr,
                                .asked = n->c.destination,
                                .endpoint = n->in.destination,
                                .until = client->not_after < other->not_after ? client->not_after
                                                                              : other->not_after};

    if (!node_verdicts_begin(proxy->node_verdicts, &p))
        return;
    n->c.wp->local_stale = n->in.wp->local_stale = true;
    if (may_stay_in_kernel(n, to))
        node_verdicts_allow(proxy->node_verdicts, &p);
}

static void allowed(struct admission *a)
{
    struct crossing *n = of_admission(a);
    struct loop *loop = connection_worker(&n->c)->loop;
    const struct workload *local = worker_pod_workload(n->in.wp);
    uint8_t header[PROXY_HEADER_MAX];
    struct relay_delivery to = {.first = header};

    if (n->proxy_header)
        to.first_len = proxy_header_format(&n->in.client, &n->original, n->in.peer_identity, header);
    inbound_delivery(&n->in, local ? local : n->in.flow.destination, &to.target, &to.client);
    stop_waiting(n);
    tell_kernel(n, &to);
    if (relay_start_pair(&n->c, &n->in, n->fd, &to, n->failed) < 0)
        refuse_status(n, 503, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
    else
        loop_free_later(loop, n);
}

static void refused(struct admission *a, int status, enum bruma_reason reason, const char *detail)
{
    refuse_status(of_admission(a), status, reason, detail);
}

static const struct admission_ops ops = {
    .place = place,
    .open = open_connection,
    .allowed = allowed,
    .refused = refused,
};

/* ---- its beginning ---- */

int same_node_start(struct connection *c, int fd, struct same_node_way *way, relay_failed_fn failed)
{
    struct worker *w = connection_worker(c);
    struct crossing *n = calloc(1, sizeof(*n));
    const struct endpoint arrival = {way->target.addr, BRUMA_PORT_HBONE};
    enum bruma_reason reason;

    if (!n)
        return -ENOMEM;
    n->fd = fd;
    n->failed = failed;
    n->target = way->target;
    connection_move(&n->c, c, abort_client);
    connection_init(&n->in, way->to, true, &way->client, &arrival, abort_other);
    n->c.peer_certificate = way->certificates[OTHER];
    n->in.peer_certificate = way->certificates[CLIENT];
    way->certificates[CLIENT] = way->certificates[OTHER] = NULL;
    admission_init(&n->admission, &n->in, &ops);
    loop_timer_init(&n->timer, on_timer);
    loop_timer_set(w->loop, &n->timer, w->settings->answer_timeout);
    if (!quota_allows(n->in.wp, &n->in.quota, &reason))
        refuse_status(n, 503, reason, NULL);
    else if (!admission_begin(&n->admission))
        worker_wait(&n->admission.waiter);
    return 0;
}

void same_node_check_one(struct connection *c)
{
    if (c->peer_certificate && tls_context_revoked(&c->wp->worker->tls, c->peer_certificate))
        c->abort(c, BRUMA_REASON_CERTIFICATE_REVOKED,
                 "peer certificate: revoked after the connection was made");
}

void same_node_check_revoked(struct worker_pod *wp)
{
    struct connection *c;

    list_for_each (c, &wp->connections, node)
        same_node_check_one(c);
}
