/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/relay_move.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/handover.h"
#include "proxy/connection/outbound_policy.h"
#include "proxy/connection/relay_internal.h"
#include "proxy/connection/same_node.h"
#include "proxy/pod/live_connections.h"
#include "proxy/socket/socket.h"
#include "proxy/worker/connection_unit.h"

#define UNSENT_MAX (1u << 20) /* bytes of a side */

struct relay *relay_of(struct connection *c)
{
    return c->abort == relay_abort ? container_of(c, struct relay, c) : NULL;
}

bool relay_is_other(const struct connection *c)
{
    return c->abort == relay_abort_other;
}

/* ---- away ---- */

void relay_offer(struct relay *r, struct moving *moving)
{
    r->moving = moving;
}

void relay_withdraw(struct relay *r)
{
    r->moving = NULL;
}

static struct loop *loop_of(const struct relay *r)
{
    return r->c.wp->worker->loop;
}

static void side_write(struct wire_writer *w, uint32_t field, const struct relay_side *side)
{
    struct wire_writer part = {};

    wire_put_flag(&part, BRUMA_SIDE_ENDED, side->ended);
    wire_put_flag(&part, BRUMA_SIDE_FIN, side->fin);
    wire_put_flag(&part, BRUMA_SIDE_HUNG_UP, side->hung_up);
    wire_put_flag(&part, BRUMA_SIDE_RESET, side->reset);
    wire_put_flag(&part, BRUMA_SIDE_SHUT, side->shut);
    if (side->unsent_len)
        wire_put_bytes(&part, BRUMA_SIDE_UNSENT, side->unsent + side->unsent_offset, side->unsent_len);
    if (side->bulk)
        wire_put_varint(&part, BRUMA_SIDE_BULK, side->bulk);
    wire_put_message(w, field, &part);
}

static const char *cannot_move(struct relay *r)
{
    const char *why = NULL;

    if (r->closed || !r->connected)
        why = "not connected yet";
    else if (r->c.news)
        why = "somebody waits for it";
    else if (r->c.wp->pod->own)
        why = "the proxy's own pod";
    return why;
}

/* What waits in a pipe waits in memory then. */
static const char *gather_unsent(struct relay *r)
{
    for (int i = 0; i < 2; i++) {
        if (r->sides[i].unsent_len > UNSENT_MAX)
            return "too many bytes are unsent";
    }
    for (int i = 0; i < 2; i++) {
        if (relay_side_take_unsent(relay_side_connection(r, i), &r->sides[i]) < 0) {
            r->moving = NULL;
            relay_abort(&r->c, BRUMA_REASON_OUT_OF_RESOURCES, NULL); /* some of its bytes are lost */
            return "no memory is left for what is unsent";
        }
    }
    return NULL;
}

const char *relay_write(struct relay *r, struct wire_writer *unit, int fds[RELAY_MOVE_FDS])
{
    struct wire_writer part = {};
    const char *why = cannot_move(r);
    uint64_t now = loop_now(loop_of(r));

    if (!why)
        why = gather_unsent(r);
    if (why)
        return why;
    connection_write(&part, BRUMA_RELAY_CONNECTION, &r->c);
    if (r->paired)
        connection_write(&part, BRUMA_RELAY_OTHER, r->in);
    side_write(&part, BRUMA_RELAY_FRONT, &r->sides[FRONT]);
    side_write(&part, BRUMA_RELAY_BACK, &r->sides[BACK]);
    if (loop_timer_armed(&r->timer))
        wire_put_varint(&part, BRUMA_RELAY_TIMER, r->timer.due > now ? r->timer.due - now : 0);
    wire_put_varint(&part, BRUMA_RELAY_IDLE, now > r->last_activity ? now - r->last_activity : 0);
    if (r->delivery_port)
        wire_put_varint(&part, BRUMA_RELAY_DELIVERY_PORT, r->delivery_port);
    if (r->left)
        wire_put_varint(&part, BRUMA_RELAY_LEFT, r->left);
    wire_put_message(unit, BRUMA_UNIT_RELAY, &part);
    if (unit->failed)
        return "no memory is left for the unit";
    for (int i = 0; i < 2; i++) {
        loop_watch_remove(loop_of(r), &r->sides[i].watch);
        fds[i] = r->sides[i].fd;
    }
    return NULL;
}

bool relay_connects(const struct relay *r)
{
    return !r->connected && !r->closed;
}

int relay_let_go(struct connection *c, struct connection_past *ret)
{
    struct relay *r = relay_of(c);
    struct relay_side *back;
    struct loop *loop;

    if (!r || !relay_connects(r))
        return -1;
    loop = loop_of(r);
    back = &r->sides[BACK];
    r->closed = true;
    loop_timer_cancel(&r->timer);
    loop_watch_remove(loop, &back->watch);
    if (back->fd >= 0) {
        socket_reset_on_close(back->fd);
        close(back->fd);
    }
    socket_delivery_over(relay_side_connection(r, BACK)->wp, r->delivery_port);
    relay_side_free_unsent(relay_side_connection(r, BACK), back);
    if (r->is_live)
        live_connections_remove(c->wp->pod->live_connections, &c->client, c->destination.port);
    quota_release(c->wp, NULL, &r->second);
    if (r->paired)
        connection_close(r->in, BRUMA_REASON_NONE, NULL);
    connection_undecide(c, ret);
    loop_free_later(loop, r);
    return r->sides[FRONT].fd;
}

void relay_thaw(struct relay *r)
{
    r->moving = NULL;
    relay_go_on(r);
}

void relay_release(struct relay *r)
{
    struct loop *loop = loop_of(r);

    r->moving = NULL;
    r->closed = true;
    loop_timer_cancel(&r->timer);
    for (int i = 0; i < 2; i++) {
        relay_side_free_unsent(relay_side_connection(r, i), &r->sides[i]);
        close(r->sides[i].fd);
    }
    if (r->is_live)
        live_connections_remove(r->c.wp->pod->live_connections, &r->c.client, r->c.destination.port);
    quota_release(r->c.wp, NULL, &r->second);
    if (r->paired)
        connection_forget(r->in);
    connection_forget(&r->c);
    loop_free_later(loop, r);
}

/* ---- here ---- */

struct relay_arrival {
    struct relay *relay; /* with its sockets and what is unsent; its connections are not in force */
    struct connection_record client, other;
    bool timed;           /* the relay's timer is armed */
    uint64_t timer, idle; /* milliseconds */
};

void relay_arrival_free(struct relay_arrival *a)
{
    struct relay *r = a->relay;

    for (int i = 0; r && i < 2; i++) {
        if (r->sides[i].fd >= 0)
            close(r->sides[i].fd);
        free(r->sides[i].unsent);
    }
    if (r && r->is_live && a->client.pod)
        live_connections_remove(a->client.pod->live_connections, &a->client.c.client,
                                a->client.c.destination.port);
    free(r);
    connection_record_clear(&a->client);
    connection_record_clear(&a->other);
    free(a);
}

static int take_unsent(const struct wire_field *f, struct relay_side *side)
{
    if (f->type != WIRE_BYTES || !f->len || f->len > UNSENT_MAX || side->unsent)
        return -EBADMSG;
    side->unsent = malloc(f->len);
    if (!side->unsent)
        return -ENOMEM;
    memcpy(side->unsent, f->bytes, f->len);
    side->unsent_len = side->unsent_size = f->len;
    return 0;
}

static int side_field(const struct wire_field *f, struct relay_side *side)
{
    bool *flag = f->number == BRUMA_SIDE_ENDED     ? &side->ended
                 : f->number == BRUMA_SIDE_FIN     ? &side->fin
                 : f->number == BRUMA_SIDE_HUNG_UP ? &side->hung_up
                 : f->number == BRUMA_SIDE_RESET   ? &side->reset
                 : f->number == BRUMA_SIDE_SHUT    ? &side->shut
                                                   : NULL;

    if (flag)
        return wire_take_flag(f, flag);
    if (f->number == BRUMA_SIDE_UNSENT)
        return take_unsent(f, side);
    if (f->number == BRUMA_SIDE_BULK)
        side->bulk = f->type == WIRE_VARINT && f->value <= 4 ? (uint8_t)f->value : 0;
    else if (unit_field_is_needed(f))
        return -EPROTONOSUPPORT;
    return 0;
}

static int side_read(const struct wire_field *field, struct relay_side *side)
{
    struct wire_reader reader;
    struct wire_field f;
    int r;

    if (field->type != WIRE_BYTES)
        return -EBADMSG;
    reader = wire_reader(field->bytes, field->len);
    while ((r = wire_next(&reader, &f)) > 0) {
        r = side_field(&f, side);
        if (r < 0)
            return r;
    }
    return r;
}

/* The connections of a unit are read last: they ask what the worker knows. */
struct relay_parts {
    struct wire_field client, other;
    bool has_sides[2];
};

static int relay_field(const struct wire_field *f, struct relay_arrival *a, struct relay_parts *parts)
{
    uint64_t number = 0;
    int r, index = f->number == BRUMA_RELAY_BACK;

    switch (f->number) {
    case BRUMA_RELAY_CONNECTION:
        parts->client = *f;
        return f->type == WIRE_BYTES ? 0 : -EBADMSG;
    case BRUMA_RELAY_OTHER:
        parts->other = *f;
        return f->type == WIRE_BYTES ? 0 : -EBADMSG;
    case BRUMA_RELAY_FRONT:
    case BRUMA_RELAY_BACK:
        if (parts->has_sides[index])
            return -EBADMSG;
        parts->has_sides[index] = true;
        return side_read(f, &a->relay->sides[index]);
    case BRUMA_RELAY_TIMER:
        a->timed = true;
        return wire_take_number(f, UINT32_MAX, &a->timer);
    case BRUMA_RELAY_IDLE:
        return wire_take_number(f, INT64_MAX, &a->idle);
    case BRUMA_RELAY_DELIVERY_PORT:
        r = wire_take_number(f, UINT16_MAX, &number);
        a->relay->delivery_port = (uint16_t)number;
        return r;
    case BRUMA_RELAY_LEFT:
        r = wire_take_number(f, SIZE_MAX, &number);
        a->relay->left = (size_t)number;
        return r;
    default:
        return unit_field_is_needed(f) ? -EPROTONOSUPPORT : 0;
    }
}

static int relay_fields(struct worker *w, const uint8_t *data, size_t len, struct relay_arrival *a,
                        char *error, size_t error_size)
{
    struct wire_reader reader = wire_reader(data, len);
    struct relay_parts parts = {};
    struct wire_field f;
    int r;

    while ((r = wire_next(&reader, &f)) > 0) {
        r = relay_field(&f, a, &parts);
        if (r < 0)
            break;
    }
    if (r == 0 && (!parts.client.bytes || !parts.has_sides[FRONT] || !parts.has_sides[BACK]))
        r = -EBADMSG;
    if (r < 0) {
        snprintf(error, error_size, "%s",
                 r == -EPROTONOSUPPORT ? "a relay with a field that is not known here"
                 : r == -ENOMEM        ? "no memory is left for it"
                                       : "a malformed relay");
        return r;
    }
    r = connection_read(w, parts.client.bytes, parts.client.len, &a->client, error, error_size);
    if (r == 0 && parts.other.bytes) {
        a->relay->paired = true;
        r = connection_read(w, parts.other.bytes, parts.other.len, &a->other, error, error_size);
        if (r == 0 && (a->client.c.inbound || !a->other.c.inbound)) {
            snprintf(error, error_size, "two connections that are no pair");
            r = -EBADMSG;
        }
    }
    return r;
}

int relay_read(struct worker *w, const uint8_t *data, size_t len, int fds[], size_t fds_len,
               struct relay_arrival **ret, char *error, size_t error_size)
{
    struct relay_arrival *a = calloc(1, sizeof(*a));
    int r;

    if (!a)
        return -ENOMEM;
    a->relay = relay_new(-1, true, NULL); /* with room for a pair */
    if (a->relay)
        a->relay->paired = false;
    r = a->relay ? relay_fields(w, data, len, a, error, error_size) : -ENOMEM;
    if (r == 0 && fds_len != RELAY_MOVE_FDS) {
        snprintf(error, error_size, "a relay with %zu sockets", fds_len);
        r = -EBADMSG;
    }
    if (r < 0) {
        relay_arrival_free(a);
        return r;
    }
    /* before it is this one's: connections that are delivered meanwhile must not come from its client's port
     */
    if (a->client.c.inbound)
        a->relay->is_live = live_connections_add(a->client.pod->live_connections, &a->client.c.client,
                                                 a->client.c.destination.port) > 0;
    for (int i = 0; i < 2; i++) {
        a->relay->sides[i].fd = fds[i];
        fds[i] = -1;
    }
    *ret = a;
    return 0;
}

static bool begin(struct relay *r, struct worker *w, struct relay_arrival *a)
{
    if (!connection_begin(&r->c, w, &a->client, relay_abort))
        return false;
    if (!r->paired || connection_begin(r->in, w, &a->other, relay_abort_other))
        return true;
    connection_close(&r->c, BRUMA_REASON_POD_REMOVED, NULL);
    return false;
}

/* What the budget does not hold is held all the same: it was before. */
static void account(struct relay *r)
{
    for (int i = 0; i < 2; i++) {
        struct relay_side *side = &r->sides[i];

        if (side->unsent_size && budget_take(&relay_side_connection(r, i)->account, side->unsent_size) < 0)
            side->unsent_size = 0;
    }
}

/* What has become of policies and of certificates while it was nobody's. What this ends is freed at the end
 * of the turn. */
static void catch_up(struct relay *r)
{
    struct worker_pod *wp = r->c.wp;

    if (r->paired || r->c.inbound)
        loop_timer_set(wp->worker->loop, r->paired ? &r->in->wp->policy_timer : &wp->policy_timer, 0);
    outbound_policy_check_one(&r->c, worker_pod_source(wp));
    if (!r->closed)
        same_node_check_one(&r->c);
    if (!r->closed && r->paired)
        same_node_check_one(r->in);
}

void relay_arrive(struct worker *w, struct relay_arrival *a)
{
    struct relay *r = a->relay;

    if (!begin(r, w, a)) {
        for (int i = 0; i < 2; i++)
            socket_reset_on_close(r->sides[i].fd);
        relay_arrival_free(a);
        return;
    }
    r->connected = true;
    r->last_activity = loop_now(w->loop) > a->idle ? loop_now(w->loop) - a->idle : 0;
    account(r);
    if (!r->paired)
        quota_take(r->c.wp, NULL, &r->second);
    if (a->timed)
        loop_timer_set(w->loop, &r->timer, a->timer);
    a->relay = NULL;
    relay_arrival_free(a);
    relay_go_on(r);
    if (!r->closed)
        catch_up(r);
}
