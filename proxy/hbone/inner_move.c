/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/inner_move.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/handover.h"
#include "proxy/hbone/inner_internal.h"
#include "proxy/hbone/tunnel_internal.h"
#include "proxy/hbone/tunnel_move.h"
#include "proxy/worker/connection_unit.h"

#define QUEUE_MAX (16u << 20) /* bytes: more than a queue ever holds */

/* ---- away ---- */

struct tunnel *inner_tunnel(const struct inner *i)
{
    return i->tunnel;
}

bool inner_is_whole(const struct inner *i)
{
    return i->tunnel && i->stream && !i->failed && !i->ended && !i->ending;
}

void inner_give_up(struct stream *s)
{
    struct tunnel *t = s->inner->tunnel;

    if (!t)
        stream_close(s, BRUMA_REASON_NONE, NULL, true);
    else if (!t->streams_len && !t->queue_len)
        tunnel_close(t, BRUMA_REASON_NONE, NULL);
}

size_t inner_waiting(const struct inner *i)
{
    return i->in.len + i->out.len;
}

static void queue_write(struct wire_writer *w, uint32_t field, const struct inner_queue *q)
{
    if (q->len)
        wire_put_bytes(w, field, q->data + q->offset, q->len);
}

void inner_write(const struct inner *i, struct wire_writer *inside)
{
    queue_write(inside, BRUMA_INSIDE_IN, &i->in);
    queue_write(inside, BRUMA_INSIDE_OUT, &i->out);
}

void inner_freeze(struct inner *i)
{
    list_del(&i->node);
    tunnel_stand_still(i->tunnel);
}

void inner_thaw(struct inner *i)
{
    if (i->tunnel)
        tunnel_thaw(i->tunnel);
    inner_wake(i);
}

void inner_release(struct inner *i)
{
    struct tunnel *t = i->tunnel;

    budget_give_all(&i->stream->c.account); /* the queues' are in it */
    i->stream = NULL;
    i->tunnel = NULL;
    tunnel_release(t);
    inner_free_if_over(i);
}

/* ---- here ---- */

static int take_bytes(const struct wire_field *f, struct inner_arrival *a, int which)
{
    if (f->type != WIRE_BYTES || !f->len || f->len > QUEUE_MAX || a->bytes[which])
        return -EBADMSG;
    a->bytes[which] = malloc(f->len);
    if (!a->bytes[which])
        return -ENOMEM;
    memcpy(a->bytes[which], f->bytes, f->len);
    a->len[which] = f->len;
    return 0;
}

static int take_field(const struct wire_field *f, struct inner_arrival *a)
{
    switch (f->number) {
    case BRUMA_INSIDE_TUNNEL:
        if (f->type != WIRE_BYTES || a->tunnel.bytes)
            return -EBADMSG;
        a->tunnel = *f;
        return 0;
    case BRUMA_INSIDE_IN:
        return take_bytes(f, a, 0);
    case BRUMA_INSIDE_OUT:
        return take_bytes(f, a, 1);
    default:
        return unit_field_is_needed(f) ? -EPROTONOSUPPORT : 0;
    }
}

int inner_arrival_read(struct inner_arrival *ret, const struct wire_field *field)
{
    struct wire_reader reader = wire_reader(field->bytes, field->len);
    struct inner_arrival a = {};
    struct wire_field f;
    int r;

    while ((r = wire_next(&reader, &f)) > 0) {
        r = take_field(&f, &a);
        if (r < 0)
            break;
    }
    if (r == 0 && !a.tunnel.bytes)
        r = -EBADMSG;
    if (r < 0)
        inner_arrival_clear(&a);
    else
        *ret = a;
    return r;
}

void inner_arrival_clear(struct inner_arrival *a)
{
    for (int n = 0; n < 2; n++)
        free(a->bytes[n]);
    *a = (struct inner_arrival){};
}

/* What the budget does not hold is held all the same: it was before. */
static void fill(struct inner *i, struct inner_queue *q, struct inner_arrival *a, int which)
{
    *q = (struct inner_queue){.data = a->bytes[which], .len = a->len[which], .size = a->len[which]};
    a->bytes[which] = NULL;
    if (q->size && budget_take(&i->stream->c.account, q->size) < 0)
        q->size = 0; /* so much is given back; what is added makes it grow anew */
}

int inner_arrive(struct stream *s, struct tunnel *t, struct inner_arrival *a)
{
    struct inner *i = inner_new(s->c.wp->worker);

    if (!i)
        return -ENOMEM;
    i->stream = s;
    i->tunnel = t;
    i->begin = true;
    i->wants_room = tls_blocked(&t->tls);
    s->inner = i;
    t->inner = i;
    t->tls.carrier = &i->transport;
    fill(i, &i->in, a, 0);
    fill(i, &i->out, a, 1);
    inner_wake(i);
    return 0;
}
