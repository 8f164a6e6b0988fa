/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/pending.h"

#include <stdlib.h>

#include "proxy/socket/socket.h"

void pending_over(struct pending *p)
{
    if (p->waits)
        loop_free_later(connection_worker(&p->c)->loop, p);
}

void pending_refuse(struct pending *p, enum bruma_reason reason, const char *detail)
{
    worker_wait_cancel(&p->admission.waiter);
    socket_reset_on_close(p->fd);
    close(p->fd);
    connection_close(&p->c, reason, detail);
    pending_over(p);
}

void pending_refused(struct admission *admission, int status, enum bruma_reason reason, const char *detail)
{
    (void)status;
    pending_refuse(pending_of(admission), reason, detail);
}

static void abort_pending(struct connection *c, enum bruma_reason reason, const char *detail)
{
    pending_refuse(container_of(c, struct pending, c), reason, detail);
}

void pending_init(struct pending *p, struct worker_pod *wp, const struct admission_ops *ops, bool inbound,
                  int fd, const struct endpoint *client, const struct endpoint *destination)
{
    p->fd = fd;
    p->waits = p->names = false;
    p->choice = 0;
    connection_init(&p->c, wp, inbound, client, destination, abort_pending);
    admission_init(&p->admission, &p->c, ops);
}

void pending_again(struct pending *p, const struct admission_ops *ops, int fd, struct connection *c)
{
    p->fd = fd;
    p->waits = p->names = false;
    p->choice = 0;
    connection_move(&p->c, c, abort_pending);
    admission_init(&p->admission, &p->c, ops);
}

void pending_decide(struct pending *now)
{
    struct pending *p;

    if (admission_begin(&now->admission))
        return;
    p = malloc(sizeof(*p));
    if (!p) {
        pending_refuse(now, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
        return;
    }
    p->fd = now->fd;
    p->waits = true;
    p->names = now->names;
    p->choice = now->choice;
    connection_move(&p->c, &now->c, abort_pending);
    admission_move(&p->admission, &now->admission, &p->c);
    worker_wait(&p->admission.waiter);
}

bool pending_waits(const struct connection *c)
{
    return c->abort == abort_pending;
}

int pending_let_go(struct connection *c, struct connection_past *ret)
{
    struct pending *p = container_of(c, struct pending, c);
    int fd;

    if (!pending_waits(c))
        return -1;
    fd = p->fd;
    worker_wait_cancel(&p->admission.waiter);
    connection_undecide(c, ret);
    pending_over(p);
    return fd;
}

void pending_relay(struct pending *p, const struct endpoint *target, relay_failed_fn failed)
{
    if (relay_start(&p->c, p->fd, target, failed) < 0)
        pending_refuse(p, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
    else
        pending_over(p);
}
