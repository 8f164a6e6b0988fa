/* SPDX-License-Identifier: Apache-2.0 */
/* Connections from outside that come without a tunnel (contract section 5.3). */
#include "proxy/connection/plaintext.h"

#include "bruma/mesh.h"
#include "proxy/connection/relay.h"
#include "proxy/socket/socket.h"
#include "proxy/worker/connection.h"

/* A connection that waits for its pod to be known. */
struct plaintext_waiter {
    struct waiter waiter;
    struct connection c;
    int fd;
    bool policy_waited;
};

static void finish(struct plaintext_waiter *p, enum bruma_reason reason)
{
    struct loop *loop = connection_worker(&p->c)->loop;

    worker_wait_cancel(&p->waiter);
    if (p->fd >= 0) {
        socket_reset_on_close(p->fd);
        close(p->fd);
    }
    connection_close(&p->c, reason, NULL);
    loop_free_later(loop, p);
}

static void abort_connection(struct connection *c, enum bruma_reason reason, const char *detail)
{
    (void)detail;
    finish(container_of(c, struct plaintext_waiter, c), reason);
}

static void go(struct plaintext_waiter *p, const struct workload *local)
{
    struct worker *w = connection_worker(&p->c);
    struct relay_request request;

    request = (struct relay_request){
        .wp = p->c.wp,
        .fd = p->fd,
        .inbound = true,
        .client = p->c.client,
        .destination = p->c.destination,
        .target = p->c.destination,
        .source = state_workload_by_address(w->state, &p->c.client.addr),
        .upstream = local,
    };
    p->fd = -1;
    if (request.source)
        workload_ref(request.source);
    workload_ref(local);
    finish(p, BRUMA_REASON_NONE);
    relay_start(&request);
}

/* As in inbound.c; the relay asks the policies once more, and for good. */
static bool decide(struct waiter *waiter, bool timed_out)
{
    struct plaintext_waiter *p = container_of(waiter, struct plaintext_waiter, waiter);
    const struct workload *local = worker_pod_workload(p->c.wp);
    enum bruma_reason reason;
    char detail[256];

    if (!local) {
        finish(p, BRUMA_REASON_SOURCE_UNKNOWN);
        return true;
    }
    if (connection_authorize(&p->c, timed_out, &reason, detail, sizeof(detail)) == CONNECTION_UNDECIDED) {
        telemetry_policy_wait(connection_worker(&p->c)->telemetry, &p->policy_waited);
        return false;
    }
    go(p, local);
    return true;
}

static bool check(struct waiter *waiter, bool timed_out)
{
    struct plaintext_waiter *p = container_of(waiter, struct plaintext_waiter, waiter);
    struct worker_pod *wp = p->c.wp;

    if (worker_pod_workload(wp)) {
        worker_wait(wp, &p->waiter, wp->worker->settings->policy_timeout, decide);
        return true;
    }
    if (timed_out)
        finish(p, BRUMA_REASON_SOURCE_UNKNOWN);
    return timed_out;
}

static bool reserved(uint16_t port)
{
    return port == BRUMA_PORT_OUTBOUND || port == BRUMA_PORT_PLAINTEXT || port == BRUMA_PORT_HBONE;
}

/* What a rule redirects may be for anybody whose packets pass here. Only the pod's own connections are
 * delivered, or the pod would be a way to others that their policies do not see. Its own is what its kernel
 * has as local, whether its network has named it or not. */
static bool is_for_pod(struct worker_pod *wp, const struct addr *destination, const struct addr *arrival)
{
    return (wp->pod->redirected && addr_equal(destination, arrival)) ||
           socket_address_is_local(wp->worker, wp->pod, destination);
}

void plaintext_accept(struct worker_pod *wp, int fd, const struct endpoint *client,
                      const struct endpoint *destination, const struct endpoint *arrival)
{
    struct plaintext_waiter *p = calloc(1, sizeof(*p));
    enum bruma_reason reason;

    if (!p) {
        close(fd);
        return;
    }
    p->fd = fd;
    list_init(&p->waiter.node);
    loop_timer_init(&p->waiter.timer, NULL);
    connection_init(&p->c, wp, true, client, destination, abort_connection);
    if (reserved(destination->port) || worker_pod_listens(wp, destination->port)) {
        finish(p, BRUMA_REASON_SELF_CALL);
        return;
    }
    if (!is_for_pod(wp, &destination->addr, &arrival->addr)) {
        finish(p, BRUMA_REASON_NOT_OF_POD);
        return;
    }
    if (!quota_allows(wp, &p->c.quota, &reason)) {
        finish(p, reason);
        return;
    }
    socket_bind_arrival(wp->worker, wp->pod, fd, client);
    worker_wait(wp, &p->waiter, wp->worker->settings->source_timeout, check);
}
