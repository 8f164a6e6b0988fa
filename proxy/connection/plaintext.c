/* SPDX-License-Identifier: Apache-2.0 */
/* Connections from outside that come without a tunnel (contract section 5.3). */
#include "proxy/connection/plaintext.h"

#include "bruma/mesh.h"
#include "proxy/connection/demand.h"
#include "proxy/connection/pending.h"
#include "proxy/route/route.h"
#include "proxy/socket/socket.h"

static enum admission_step place(struct admission *a, bool timed_out)
{
    const struct workload *local;
    enum admission_step step;

    if (!admission_needs_workload(a, timed_out, &local, &step))
        return step;
    return demand_inbound(a, local, NULL, NULL, timed_out) ? ADMISSION_POLICIES : ADMISSION_WAITS;
}

static void open_connection(struct admission *a)
{
    struct connection *c = a->c;
    const struct workload *local = worker_pod_workload(c->wp),
                          *source = state_workload_by_address(connection_worker(c)->state, &c->client.addr);

    if (source)
        workload_ref(source);
    workload_ref(local);
    connection_describe(c, source, local, NULL, NULL, NULL, NULL);
    connection_open(c, &c->destination);
}

static void allowed(struct admission *a)
{
    pending_relay(pending_of(a), &a->c->destination, NULL);
}

static const struct admission_ops ops = {
    .place = place,
    .open = open_connection,
    .allowed = allowed,
    .refused = pending_refused,
};

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
    enum bruma_reason reason;
    struct pending p;

    pending_init(&p, wp, &ops, true, fd, client, destination);
    if (route_is_own_port(destination->port) || worker_pod_listens(wp, destination->port)) {
        pending_refuse(&p, BRUMA_REASON_SELF_CALL, NULL);
        return;
    }
    if (!is_for_pod(wp, &destination->addr, &arrival->addr)) {
        pending_refuse(&p, BRUMA_REASON_NOT_OF_POD, NULL);
        return;
    }
    if (!quota_allows(wp, &p.c.quota, &reason)) {
        pending_refuse(&p, reason, NULL);
        return;
    }
    socket_bind_arrival(wp->worker, wp->pod, fd, client);
    pending_decide(&p);
}

/* It is the pod's, and bound to where it comes by, since it was accepted. */
void plaintext_accept_again(struct worker_pod *wp, int fd, const struct endpoint *client,
                            const struct endpoint *destination, const struct connection_past *past)
{
    struct pending p;

    pending_init(&p, wp, &ops, true, fd, client, destination);
    connection_remember(&p.c, past);
    pending_decide(&p);
}
