/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/undecided.h"

#include <errno.h>
#include <stdlib.h>

#include "bruma/handover.h"
#include "proxy/connection/inbound.h"
#include "proxy/connection/outbound.h"
#include "proxy/connection/pending.h"
#include "proxy/connection/plaintext.h"
#include "proxy/connection/relay_move.h"
#include "proxy/connection/same_node.h"
#include "proxy/connection/worker_pods.h"
#include "proxy/hbone/stream_move.h"
#include "proxy/socket/socket.h"

struct undecided {
    struct pod *pod; /* referenced */
    enum bruma_undecided_listener listener;
    int fd;
    struct endpoint client, destination;
    struct connection_past past; /* unless it is a tunnel's */
};

/* ---- away ---- */

static struct undecided *undecided_new(struct pod *pod)
{
    struct undecided *u = calloc(1, sizeof(*u));

    if (!u)
        return NULL;
    u->fd = -1;
    if (pod) {
        u->pod = pod;
        pod_ref(pod);
    }
    return u;
}

/* Without its socket. */
static void undecided_free(struct undecided *u)
{
    if (u->pod)
        pod_unref(u->pod);
    free(u);
}

void undecided_forget(struct undecided *u)
{
    if (u->fd >= 0)
        close(u->fd);
    undecided_free(u);
}

/* The fd of one that was decided upon in vain so far, or -1. */
static int let_go(struct connection *c, bool late, struct connection_past *ret)
{
    int fd = pending_let_go(c, ret);

    if (fd < 0)
        fd = same_node_let_go(c, ret);
    if (fd < 0 && late)
        fd = relay_let_go(c, ret);
    if (fd < 0 && late)
        fd = stream_let_go(c, ret);
    return fd;
}

/* ret has the pod already. */
static bool find_connection(struct worker_pod *wp, bool late, struct undecided *ret)
{
    struct connection *c;

    list_for_each (c, &wp->connections, node) {
        struct endpoint client = c->client, destination = c->destination;
        bool inbound = c->inbound;

        if (c->news)
            continue;
        ret->fd = let_go(c, late, &ret->past);
        if (ret->fd < 0)
            continue;
        ret->listener = inbound ? BRUMA_UNDECIDED_PLAINTEXT : BRUMA_UNDECIDED_OUTBOUND;
        ret->client = client;
        ret->destination = destination;
        return true;
    }
    return false;
}

static bool find_tunnel(struct worker_pod *wp, struct undecided *ret)
{
    struct handshake *h;

    list_for_each (h, &wp->handshakes, pod_node) {
        ret->fd = tunnel_accept_let_go(h, &ret->client, &ret->destination);
        if (ret->fd < 0)
            continue;
        ret->listener = BRUMA_UNDECIDED_HBONE;
        return true;
    }
    return false;
}

struct undecided *undecided_let_go(struct worker *w, bool late)
{
    struct worker_pod *wp;

    list_for_each (wp, &w->pods, node) {
        struct undecided *u;

        if (wp->keeps_undecided || wp->pod->own)
            continue;
        u = undecided_new(wp->pod);
        if (u && (find_connection(wp, late, u) || find_tunnel(wp, u))) {
            loop_again(w->loop); /* what is given up may have to be said */
            return u;
        }
        if (u)
            undecided_free(u);
    }
    return NULL;
}

/* Those that have sent their request are their tunnel's. */
static bool is_undecided(struct connection *c)
{
    const struct relay *r = relay_of(c);

    return pending_waits(c) || same_node_waits(c) || (r && relay_connects(r)) || stream_waits(c);
}

unsigned undecided_count(struct worker *w, const char **ret_why)
{
    struct worker_pod *wp;
    unsigned n = 0;

    list_for_each (wp, &w->pods, node) {
        struct connection *c;
        struct handshake *h;

        list_for_each (c, &wp->connections, node) {
            if (!is_undecided(c))
                continue;
            *ret_why = c->news ? "somebody waits for it" : "not connected yet";
            n++;
        }
        list_for_each (h, &wp->handshakes, pod_node) {
            if (!tunnel_accept_waits(h))
                continue;
            *ret_why = "a tunnel that is not open yet";
            n++;
        }
    }
    return n;
}

void undecided_write(const struct undecided *u, struct wire_writer *unit, int *ret_fd)
{
    struct wire_writer part = {};

    wire_put_string(&part, BRUMA_UNDECIDED_POD, u->pod->uid);
    wire_put_varint(&part, BRUMA_UNDECIDED_COOKIE, u->pod->cookie);
    wire_put_varint(&part, BRUMA_UNDECIDED_LISTENER, u->listener);
    endpoint_write(&part, BRUMA_UNDECIDED_CLIENT, &u->client);
    endpoint_write(&part, BRUMA_UNDECIDED_DESTINATION, &u->destination);
    if (u->past.opened)
        wire_put_varint(&part, BRUMA_UNDECIDED_OPENED, u->past.opened);
    wire_put_flag(&part, BRUMA_UNDECIDED_COUNTED, u->past.counted);
    wire_put_message(unit, BRUMA_UNIT_UNDECIDED, &part);
    *ret_fd = u->fd;
}

/* ---- here ---- */

struct undecided_parts {
    char *pod;
    uint64_t cookie, listener;
    bool has_client, has_destination;
};

static int take_field(const struct wire_field *f, struct undecided *u, struct undecided_parts *parts)
{
    switch (f->number) {
    case BRUMA_UNDECIDED_POD:
        free(parts->pod);
        parts->pod = text_read(f);
        return parts->pod ? 0 : -EBADMSG;
    case BRUMA_UNDECIDED_COOKIE:
        return wire_take_number(f, UINT64_MAX, &parts->cookie);
    case BRUMA_UNDECIDED_LISTENER:
        return wire_take_number(f, UINT32_MAX, &parts->listener);
    case BRUMA_UNDECIDED_CLIENT:
        parts->has_client = true;
        return endpoint_read(f, &u->client);
    case BRUMA_UNDECIDED_DESTINATION:
        parts->has_destination = true;
        return endpoint_read(f, &u->destination);
    case BRUMA_UNDECIDED_OPENED:
        return wire_take_number(f, UINT64_MAX, &u->past.opened);
    case BRUMA_UNDECIDED_COUNTED:
        return wire_take_flag(f, &u->past.counted);
    default:
        return unit_field_is_needed(f) ? -EPROTONOSUPPORT : 0;
    }
}

static int take_fields(const uint8_t *data, size_t len, struct undecided *u, struct undecided_parts *parts)
{
    struct wire_reader reader = wire_reader(data, len);
    struct wire_field f;
    int r;

    while ((r = wire_next(&reader, &f)) > 0) {
        r = take_field(&f, u, parts);
        if (r < 0)
            return r;
    }
    if (r < 0 || !parts->pod || !parts->listener || !parts->has_client || !parts->has_destination)
        return -EBADMSG;
    if (parts->listener > BRUMA_UNDECIDED_HBONE)
        return -EPROTONOSUPPORT;
    u->listener = (enum bruma_undecided_listener)parts->listener;
    return 0;
}

static int find_pod(struct worker *w, const struct undecided_parts *parts, struct undecided *u)
{
    struct worker_pod *wp = unit_pod(w, parts->pod, parts->cookie);

    if (!wp || wp->draining)
        return -ENOENT;
    u->pod = wp->pod;
    pod_ref(u->pod);
    return 0;
}

static const char *text_of(int error)
{
    switch (error) {
    case -ENOENT:
        return "its pod is not served here";
    case -ENOMEM:
        return "no memory is left for it";
    case -EPROTONOSUPPORT:
        return "an undecided connection with a field that is not known here";
    default:
        return "a malformed undecided connection";
    }
}

int undecided_read(struct worker *w, const uint8_t *data, size_t len, int fds[], size_t fds_len,
                   struct undecided **ret, char *error, size_t error_size)
{
    struct undecided *u = undecided_new(NULL);
    struct undecided_parts parts = {};
    int r = u ? take_fields(data, len, u, &parts) : -ENOMEM;

    if (r == 0)
        r = fds_len == 1 ? find_pod(w, &parts, u) : -EBADMSG;
    free(parts.pod);
    if (r < 0) {
        snprintf(error, error_size, "%s", text_of(r));
        if (u)
            undecided_free(u);
        return r;
    }
    u->fd = fds[0];
    fds[0] = -1;
    *ret = u;
    return 0;
}

static void begin(struct worker_pod *wp, const struct undecided *u)
{
    switch (u->listener) {
    case BRUMA_UNDECIDED_OUTBOUND:
        outbound_accept_again(wp, u->fd, &u->client, &u->destination, &u->past);
        break;
    case BRUMA_UNDECIDED_PLAINTEXT:
        plaintext_accept_again(wp, u->fd, &u->client, &u->destination, &u->past);
        break;
    case BRUMA_UNDECIDED_HBONE:
        tunnel_accept_again(wp, u->fd, &u->client, &u->destination, inbound_begin);
        break;
    }
}

void undecided_begin(struct worker *w, struct undecided *u)
{
    struct worker_pod *wp = worker_pod_find(w, u->pod);

    if (wp && !wp->deleted) {
        begin(wp, u);
        loop_again(w->loop);
    } else {
        socket_reset_on_close(u->fd);
        close(u->fd);
    }
    undecided_free(u);
}

void undecided_stays(struct worker *w, struct undecided *u)
{
    struct worker_pod *wp = worker_pod_find(w, u->pod);

    if (wp)
        wp->keeps_undecided = true;
    undecided_begin(w, u);
}
