/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "hand-over"
#include "proxy/handover/giver.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "lib/log.h"
#include "proxy/connection/relay_move.h"
#include "proxy/handover/lane.h"

#define UNITS_PER_TURN      64
#define ANSWER_MILLISECONDS 500 /* to a unit; then the old proxy goes on with it, and with all others */

/* Something that shall go. */
struct unit {
    struct moving moving;
    struct list node; /* in giver.waiting or giver.sent */
    struct giver *giver;
    struct relay *relay;
    uint32_t number; /* 0: not sent */
    size_t bytes;
    uint64_t since; /* microseconds: it stands still since then */
};

/* What is told at the end. */
struct giver_report {
    struct giver_result result;
    giver_done_fn done;
    void *data;
};

struct giver {
    struct lane lane;
    struct worker *worker;
    struct loop_timer timer; /* the answer to the oldest unit */
    struct list waiting, sent;
    size_t pending; /* bytes of sent */
    uint32_t last_number;
    struct giver_report *report; /* for the control thread */
    bool over;
};

static uint64_t microseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* ---- its end ---- */

/* On the control thread. */
static void tell(void *data)
{
    struct giver_report *r = data;

    r->done(r->data, &r->result);
    free(r);
}

static void unit_free(struct unit *u)
{
    list_del(&u->node);
    free(u);
}

static void stays(struct giver *g, const char *why)
{
    g->report->result.left++;
    snprintf(g->report->result.why, sizeof(g->report->result.why), "%s", why);
}

/* Whatever has not gone goes on here. */
static void finish(struct giver *g, const char *why)
{
    struct wire_writer end = {};

    if (g->over)
        return;
    g->over = true;
    loop_timer_cancel(&g->timer);
    while (!list_empty(&g->sent)) {
        struct unit *u = list_first(&g->sent, struct unit, node);

        (void)lane_say(&g->lane, BRUMA_HANDOVER_BACK, u->number, NULL, NULL, 0);
        stays(g, why);
        relay_thaw(u->relay);
        unit_free(u);
    }
    while (!list_empty(&g->waiting)) {
        struct unit *u = list_first(&g->waiting, struct unit, node);

        stays(g, why);
        relay_withdraw(u->relay);
        unit_free(u);
    }
    wire_put_varint(&end, BRUMA_HANDOVER_FIELD_MOVED, g->report->result.moved);
    wire_put_varint(&end, BRUMA_HANDOVER_FIELD_LEFT, g->report->result.left);
    wire_put_varint(&end, BRUMA_HANDOVER_FIELD_PAUSE, g->report->result.pause_max);
    wire_put_string(&end, BRUMA_HANDOVER_FIELD_TEXT, g->report->result.why);
    (void)lane_say(&g->lane, BRUMA_HANDOVER_END, 0, &end, NULL, 0);
    lane_close(&g->lane);
    if (loop_post(g->worker->proxy->loop, tell, g->report) < 0) {
        log_error("out of memory: the end of a hand-over is not told");
        abort();
    }
    loop_free_later(g->worker->loop, g);
}

/* ---- sending ---- */

/* It has ended here, waiting or on its way. */
static void on_gone(struct moving *moving)
{
    struct unit *u = container_of(moving, struct unit, moving);
    struct giver *g = u->giver;

    if (u->number)
        (void)lane_say(&g->lane, BRUMA_HANDOVER_BACK, u->number, NULL, NULL, 0);
    g->pending -= u->bytes;
    unit_free(u);
}

static int send_unit(struct giver *g, struct unit *u)
{
    struct wire_writer payload = {};
    int fds[RELAY_MOVE_FDS], r;
    const char *why = relay_write(u->relay, &payload, fds);

    if (why) {
        wire_writer_clear(&payload);
        stays(g, why);
        relay_withdraw(u->relay);
        unit_free(u);
        return 0;
    }
    u->since = microseconds();
    u->number = ++g->last_number;
    u->bytes = payload.len;
    g->pending += u->bytes;
    list_del(&u->node);
    list_add_tail(&g->sent, &u->node);
    r = lane_say_unit(&g->lane, u->number, &payload, fds, RELAY_MOVE_FDS);
    wire_writer_clear(&payload);
    if (r >= 0 && !loop_timer_armed(&g->timer))
        loop_timer_set(g->worker->loop, &g->timer, ANSWER_MILLISECONDS);
    return r;
}

/* Each answer makes room for more. */
static void go_on(struct giver *g)
{
    for (unsigned sent = 0; sent < UNITS_PER_TURN && !list_empty(&g->waiting);) {
        uint32_t before = g->last_number;

        if (g->pending >= BRUMA_HANDOVER_PENDING_MAX)
            return;
        if (send_unit(g, list_first(&g->waiting, struct unit, node)) < 0) {
            finish(g, "the lane has failed");
            return;
        }
        sent += g->last_number - before;
    }
    if (list_empty(&g->waiting) && list_empty(&g->sent))
        finish(g, "");
}

/* ---- answers ---- */

static struct unit *find(struct giver *g, uint32_t number)
{
    struct unit *u;

    list_for_each (u, &g->sent, node) {
        if (u->number == number)
            return u;
    }
    return NULL;
}

static void gave(struct giver *g, struct unit *u)
{
    struct relay *r = u->relay;
    uint64_t pause;

    u->relay = NULL;
    if (lane_say(&g->lane, BRUMA_HANDOVER_YOURS, u->number, NULL, NULL, 0) < 0) {
        stays(g, "the lane has failed");
        relay_thaw(r);
        return;
    }
    relay_release(r);
    pause = microseconds() - u->since;
    g->report->result.moved++;
    g->report->result.pause_sum += pause;
    if (pause > g->report->result.pause_max)
        g->report->result.pause_max = pause;
}

static void refused(struct giver *g, struct unit *u, const struct lane_message *m)
{
    struct wire_reader reader = wire_reader(m->payload, m->len);
    struct relay *r = u->relay;
    struct wire_field f;
    char why[sizeof(g->report->result.why)] = "refused";

    while (wire_next(&reader, &f) > 0) {
        if (f.number == BRUMA_HANDOVER_FIELD_TEXT && f.type == WIRE_BYTES)
            snprintf(why, sizeof(why), "%.*s", (int)(f.len < sizeof(why) ? f.len : sizeof(why) - 1), f.bytes);
    }
    stays(g, why);
    u->relay = NULL;
    relay_thaw(r);
}

/* False where it is no answer: the lane ends, and what is on it stays. */
static bool on_message(struct lane *lane, const struct lane_message *m)
{
    struct giver *g = container_of(lane, struct giver, lane);
    struct unit *u = find(g, m->head.unit);

    if ((m->head.kind != BRUMA_HANDOVER_IMPORTED && m->head.kind != BRUMA_HANDOVER_REFUSED) || m->head.more ||
        !m->head.unit || m->head.unit > g->last_number)
        return false;
    if (!u)
        return true; /* it ended here meanwhile, which was told */
    g->pending -= u->bytes;
    if (m->head.kind == BRUMA_HANDOVER_IMPORTED)
        gave(g, u);
    else
        refused(g, u, m);
    unit_free(u);
    if (list_empty(&g->sent))
        loop_timer_cancel(&g->timer);
    else
        loop_timer_set(g->worker->loop, &g->timer, ANSWER_MILLISECONDS);
    go_on(g);
    return true;
}

static void on_ended(struct lane *lane)
{
    finish(container_of(lane, struct giver, lane), "the lane has ended");
}

static const struct lane_events events = {on_message, on_ended};

static void on_timer(struct loop_timer *timer)
{
    finish(container_of(timer, struct giver, timer), "no answer in time");
}

/* ---- its beginning ---- */

static void collect(struct giver *g)
{
    struct worker_pod *wp;

    list_for_each (wp, &g->worker->pods, node) {
        struct connection *c;

        list_for_each (c, &wp->connections, node) {
            struct relay *r = relay_of(c);
            struct unit *u = r ? calloc(1, sizeof(*u)) : NULL;

            if (!u) {
                if (!relay_is_other(c))
                    stays(g, r ? "no memory is left" : "it is no relay");
                continue;
            }
            u->moving.gone = on_gone;
            u->giver = g;
            u->relay = r;
            list_init(&u->node);
            list_add_tail(&g->waiting, &u->node);
            relay_offer(r, &u->moving);
        }
    }
}

struct giver_start {
    struct giver *giver;
    int fd;
};

static void begin(void *data)
{
    struct giver_start *s = data;
    struct giver *g = s->giver;
    int r = lane_open(&g->lane, g->worker->loop, s->fd, &events);

    free(s);
    if (r < 0) {
        finish(g, "the lane cannot be opened");
        return;
    }
    collect(g);
    go_on(g);
}

void giver_start(struct worker *w, int fd, giver_done_fn done, void *data)
{
    struct giver *g = calloc(1, sizeof(*g));
    struct giver_start *s = malloc(sizeof(*s));
    struct giver_report *report = malloc(sizeof(*report));

    if (!g || !s || !report) {
        log_error("out of memory: a hand-over cannot begin");
        abort(); /* as all that a worker is told: worker_post.c */
    }
    g->worker = w;
    *report = (struct giver_report){.done = done, .data = data};
    g->report = report;
    list_init(&g->waiting);
    list_init(&g->sent);
    loop_timer_init(&g->timer, on_timer);
    *s = (struct giver_start){g, fd};
    if (loop_post(w->loop, begin, s) < 0) {
        log_error("out of memory: a hand-over cannot begin");
        abort();
    }
}
