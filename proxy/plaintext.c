/* SPDX-License-Identifier: Apache-2.0 */
/* Connections from outside that come without a tunnel (contract section 5.3). */
#include "bruma/mesh.h"
#include "proxy/relay.h"
#include "proxy/socket.h"
#include "proxy/stream.h"

/* A connection that waits for its pod to be known. */
struct plaintext_waiter {
    struct waiter waiter;
    struct connection c;
    int fd;
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

static void cut(struct connection *c, enum bruma_reason reason, const char *detail)
{
    (void)detail;
    finish(container_of(c, struct plaintext_waiter, c), reason);
}

static bool check(struct waiter *waiter, bool timed_out)
{
    struct plaintext_waiter *p = container_of(waiter, struct plaintext_waiter, waiter);
    struct worker *w = connection_worker(&p->c);
    const struct workload *local = worker_pod_workload(p->c.wp);
    struct relay_request request;

    if (!local) {
        if (timed_out)
            finish(p, BRUMA_REASON_SOURCE_UNKNOWN);
        return timed_out;
    }
    request = (struct relay_request){
        .wp = p->c.wp,
        .fd = p->fd,
        .inbound = true,
        .client = p->c.client,
        .destination = p->c.destination,
        .target = p->c.destination,
        .source = state_workload_by_address(w->proxy->state, &p->c.client.addr),
        .upstream = local,
    };
    p->fd = -1;
    if (request.source)
        workload_ref(request.source);
    workload_ref(local);
    finish(p, BRUMA_REASON_NONE);
    relay_start(&request);
    return true;
}

static bool reserved(uint16_t port)
{
    return port == BRUMA_PORT_OUTBOUND || port == BRUMA_PORT_PLAINTEXT || port == BRUMA_PORT_HBONE;
}

void plaintext_accept(struct worker_pod *wp, int fd, const struct endpoint *client,
                      const struct endpoint *destination)
{
    struct plaintext_waiter *p = calloc(1, sizeof(*p));

    if (!p) {
        close(fd);
        return;
    }
    p->fd = fd;
    list_init(&p->waiter.node);
    loop_timer_init(&p->waiter.timer, NULL);
    connection_init(&p->c, wp, true, client, destination, cut);
    if (!pod_has_address(wp->pod, &destination->addr) || reserved(destination->port) ||
        worker_pod_listens(wp, destination->port)) {
        finish(p, BRUMA_REASON_SELF_CALL);
        return;
    }
    worker_wait(wp, &p->waiter, check);
}
