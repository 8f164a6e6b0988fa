/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "hand-over"
#include "proxy/handover/taker.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "proxy/connection/inbound.h"
#include "proxy/connection/relay_move.h"
#include "proxy/connection/undecided.h"
#include "proxy/handover/lane.h"
#include "proxy/hbone/tunnel_move.h"
#include "proxy/worker/connection_unit.h"

/* A process that ends closes its sockets first. So long it may take to be dead after that; else it lives. */
#define DEATH_MILLISECONDS 1000
#define DEATH_LOOK         20
#define IMPORTED_MAX       1024  /* units that wait for their word */
#define FDS_MAX            16384 /* sockets of a unit: more than --max-streams may be */

/* One that is whole and built. */
struct imported {
    struct list node;
    uint32_t number;
    uint64_t since;              /* pauses_now(): it stands still since then; 0: that is not known */
    struct relay_arrival *relay; /* one of the three */
    struct tunnel_arrival *tunnel;
    struct undecided *undecided;
};

/* What is told at the end. */
struct taker_report {
    struct taker_result result;
    taker_done_fn done;
    void *data;
};

struct taker {
    struct lane lane;
    struct worker *worker;
    struct turn_hook hook;
    struct loop_timer timer; /* until the other is dead */
    unsigned looks;
    int pidfd;
    struct list imported;
    unsigned imported_len;
    uint32_t number; /* of the unit that is being received; 0: none */
    uint8_t *data;
    size_t len, size; /* bytes that came, and that there is room for */
    int *fds;
    size_t fds_len;
    bool is_short;
    struct taker_report *report; /* for the control thread */
};

static void imported_free(struct imported *i)
{
    if (i->relay)
        relay_arrival_free(i->relay);
    if (i->tunnel)
        tunnel_arrival_free(i->tunnel);
    if (i->undecided)
        undecided_forget(i->undecided);
    free(i);
}

static void forget_parts(struct taker *t)
{
    for (size_t i = 0; i < t->fds_len; i++) {
        if (t->fds[i] >= 0)
            close(t->fds[i]);
    }
    free(t->fds);
    if (t->data)
        explicit_bzero(t->data, t->len);
    free(t->data);
    t->fds = NULL;
    t->data = NULL;
    t->len = t->size = t->fds_len = 0;
    t->number = 0;
    t->is_short = false;
}

/* ---- its end ---- */

/* On the control thread. */
static void tell(void *data)
{
    struct taker_report *r = data;

    r->done(r->data, &r->result);
    free(r);
}

static void finish(struct taker *t)
{
    lane_close(&t->lane);
    if (!list_empty(&t->hook.node))
        loop_short_turns(t->worker->loop, false);
    list_del(&t->hook.node);
    loop_timer_cancel(&t->timer);
    forget_parts(t);
    while (!list_empty(&t->imported)) {
        struct imported *i = list_first(&t->imported, struct imported, node);

        list_del(&i->node);
        imported_free(i);
    }
    close(t->pidfd);
    if (loop_post(t->worker->proxy->loop, tell, t->report) < 0) {
        log_error("out of memory: the end of a hand-over is not told");
        abort();
    }
    loop_free_later(t->worker->loop, t);
}

static void begin_unit(struct taker *t, struct imported *i)
{
    list_del(&i->node);
    t->imported_len--;
    t->report->result.taken++;
    if (i->relay)
        relay_arrive(t->worker, i->relay);
    else if (i->tunnel)
        tunnel_arrive(t->worker, i->tunnel);
    else
        undecided_begin(t->worker, i->undecided);
    pauses_add(&t->report->result.pauses, i->since);
    free(i);
}

static bool is_dead(const struct taker *t)
{
    struct pollfd p = {.fd = t->pidfd, .events = POLLIN};

    return poll(&p, 1, 0) > 0 && (p.revents & POLLIN);
}

/* The old one has closed the lane. If it is dead, what is built and was not taken back is nobody else's. */
static void look(struct taker *t)
{
    if (!list_empty(&t->imported) && !is_dead(t) && ++t->looks * DEATH_LOOK < DEATH_MILLISECONDS) {
        loop_timer_set(t->worker->loop, &t->timer, DEATH_LOOK);
        return;
    }
    while (!list_empty(&t->imported) && is_dead(t))
        begin_unit(t, list_first(&t->imported, struct imported, node));
    finish(t);
}

static void on_timer(struct loop_timer *timer)
{
    look(container_of(timer, struct taker, timer));
}

static void on_ended(struct lane *lane)
{
    struct taker *t = container_of(lane, struct taker, lane);

    forget_parts(t);
    look(t);
}

/* ---- units ---- */

static void refuse(struct taker *t, const char *why)
{
    struct wire_writer payload = {};

    t->report->result.refused++;
    wire_put_string(&payload, BRUMA_HANDOVER_FIELD_TEXT, why);
    (void)lane_say(&t->lane, BRUMA_HANDOVER_REFUSED, t->number, &payload, NULL, 0);
}

/* What is said of a unit beside what it is. */
static int read_rest(struct wire_reader *reader, struct imported *ret)
{
    struct wire_field f;
    int r;

    while ((r = wire_next(reader, &f)) > 0) {
        if (f.number == BRUMA_UNIT_SINCE)
            r = wire_take_number(&f, UINT64_MAX, &ret->since);
        else if (unit_field_is_needed(&f))
            r = -EPROTONOSUPPORT;
        if (r < 0)
            return r;
    }
    return r;
}

static int build(struct taker *t, struct imported *ret, char *error, size_t error_size)
{
    struct wire_reader reader = wire_reader(t->data, t->len), rest;
    struct wire_field f;
    int r;

    if (t->worker->draining) {
        snprintf(error, error_size, "this proxy drains as well");
        return -ESHUTDOWN;
    }
    r = wire_next(&reader, &f);
    if (r <= 0 || f.type != WIRE_BYTES) {
        snprintf(error, error_size, "a malformed unit");
        return -EBADMSG;
    }
    rest = reader;
    r = read_rest(&rest, ret);
    if (r < 0) {
        snprintf(error, error_size, "%s",
                 r == -EPROTONOSUPPORT ? "a unit with a field that is not known here" : "a malformed unit");
        return r;
    }
    if (f.number == BRUMA_UNIT_RELAY)
        return relay_read(t->worker, f.bytes, f.len, t->fds, t->fds_len, &ret->relay, error, error_size);
    if (f.number == BRUMA_UNIT_TUNNEL)
        return tunnel_arrival_read(t->worker, f.bytes, f.len, t->fds, t->fds_len, inbound_begin, &ret->tunnel,
                                   error, error_size);
    if (f.number == BRUMA_UNIT_UNDECIDED)
        return undecided_read(t->worker, f.bytes, f.len, t->fds, t->fds_len, &ret->undecided, error,
                              error_size);
    snprintf(error, error_size, "a unit of a kind that is not known here");
    return -EPROTONOSUPPORT;
}

static void import(struct taker *t)
{
    char error[160] = "no memory is left for it";
    struct imported *i = calloc(1, sizeof(*i));
    int r = -ENOMEM;

    if (t->is_short)
        snprintf(error, sizeof(error), "no descriptors are left for it");
    else if (t->imported_len >= IMPORTED_MAX)
        snprintf(error, sizeof(error), "too many are under way");
    else if (i)
        r = build(t, i, error, sizeof(error));
    if (r < 0) {
        free(i);
        refuse(t, error);
    } else {
        i->number = t->number;
        list_init(&i->node);
        list_add_tail(&t->imported, &i->node);
        t->imported_len++;
        (void)lane_say(&t->lane, BRUMA_HANDOVER_IMPORTED, t->number, NULL, NULL, 0);
    }
    forget_parts(t);
}

/* Room for so many bytes; what there was before is overwritten, for there may be keys in it. */
static uint8_t *reserve(struct taker *t, size_t len)
{
    size_t size = len * 2;
    uint8_t *data;

    if (len <= t->size && t->data)
        return t->data;
    data = malloc(size);
    if (!data)
        return NULL;
    if (t->data) {
        memcpy(data, t->data, t->len);
        explicit_bzero(t->data, t->len);
        free(t->data);
    }
    t->data = data;
    t->size = size;
    return data;
}

/* False: more than a unit may be. */
static bool add_part(struct taker *t, const struct lane_message *m)
{
    uint8_t *data;
    int *fds;

    if (t->len + m->len > BRUMA_HANDOVER_UNIT_MAX)
        return false;
    if (t->fds_len + m->fds_len > FDS_MAX) {
        t->is_short = true; /* this one is refused; others may go */
        return true;
    }
    data = reserve(t, t->len + m->len);
    fds = realloc(t->fds, (t->fds_len + m->fds_len + 1) * sizeof(int));
    if (fds)
        t->fds = fds;
    if (!data || !fds || m->is_short) {
        t->is_short = true;
        return true;
    }
    memcpy(t->data + t->len, m->payload, m->len);
    t->len += m->len;
    for (size_t i = 0; i < m->fds_len; i++) {
        t->fds[t->fds_len++] = m->fds[i];
        m->fds[i] = -1;
    }
    return true;
}

static bool on_unit(struct taker *t, const struct lane_message *m)
{
    if (!m->head.unit || (t->number && t->number != m->head.unit))
        return false;
    t->number = m->head.unit;
    if (!add_part(t, m))
        return false;
    if (!m->head.more)
        import(t);
    return true;
}

static struct imported *find(struct taker *t, uint32_t number)
{
    struct imported *i;

    list_for_each (i, &t->imported, node) {
        if (i->number == number)
            return i;
    }
    return NULL;
}

static void read_end(struct taker *t, const struct lane_message *m)
{
    struct wire_reader reader = wire_reader(m->payload, m->len);
    struct taker_result *result = &t->report->result;
    struct wire_field f;

    while (wire_next(&reader, &f) > 0) {
        char *text;

        if (f.number == BRUMA_HANDOVER_FIELD_LEFT && f.type == WIRE_VARINT)
            result->left = f.value;
        else if (f.number == BRUMA_HANDOVER_FIELD_PAUSE && f.type == WIRE_VARINT)
            result->pause_max = f.value;
        if (f.number != BRUMA_HANDOVER_FIELD_TEXT)
            continue;
        text = text_read(&f);
        snprintf(result->why, sizeof(result->why), "%s", text ? text : "");
        free(text);
    }
}

static bool on_message(struct lane *lane, const struct lane_message *m)
{
    struct taker *t = container_of(lane, struct taker, lane);
    struct imported *i = find(t, m->head.unit);

    switch (m->head.kind) {
    case BRUMA_HANDOVER_UNIT:
        return on_unit(t, m);
    case BRUMA_HANDOVER_YOURS:
        if (!i)
            return false;
        begin_unit(t, i);
        return true;
    case BRUMA_HANDOVER_BACK:
        if (t->number == m->head.unit)
            forget_parts(t);
        if (i) {
            list_del(&i->node);
            t->imported_len--;
            imported_free(i);
        }
        return true;
    case BRUMA_HANDOVER_END:
        read_end(t, m);
        return true;
    default:
        return false;
    }
}

static const struct lane_events events = {on_message, on_ended};

/* What comes does not wait until it is its turn: meanwhile nobody serves it. */
static void on_turn_end(struct turn_hook *hook)
{
    lane_hear(&container_of(hook, struct taker, hook)->lane);
}

/* ---- its beginning ---- */

struct taker_start {
    struct taker *taker;
    int fd;
};

static void begin(void *data)
{
    struct taker_start *s = data;
    struct taker *t = s->taker;
    int r = lane_open(&t->lane, t->worker->loop, s->fd, &events);

    free(s);
    if (r < 0) {
        finish(t);
        return;
    }
    list_add_tail(&t->worker->turn_hooks, &t->hook.node);
    loop_short_turns(t->worker->loop, true);
}

void taker_start(struct worker *w, int fd, int pidfd, taker_done_fn done, void *data)
{
    struct taker *t = calloc(1, sizeof(*t));
    struct taker_start *s = malloc(sizeof(*s));
    struct taker_report *report = malloc(sizeof(*report));

    if (!t || !s || !report) {
        log_error("out of memory: a hand-over cannot begin");
        abort(); /* as all that a worker is told: worker_post.c */
    }
    t->worker = w;
    t->pidfd = pidfd;
    *report = (struct taker_report){.done = done, .data = data};
    t->report = report;
    list_init(&t->imported);
    list_init(&t->hook.node);
    t->hook.fn = on_turn_end;
    loop_timer_init(&t->timer, on_timer);
    *s = (struct taker_start){t, fd};
    if (loop_post(w->loop, begin, s) < 0) {
        log_error("out of memory: a hand-over cannot begin");
        abort();
    }
}
