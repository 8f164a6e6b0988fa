/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "hand-over"
#include "proxy/handover/giver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "proxy/connection/relay_move.h"
#include "proxy/connection/undecided.h"
#include "proxy/handover/lane.h"
#include "proxy/handover/pauses.h"
#include "proxy/hbone/tunnel_move.h"

#define SOCKETS_UNDER_WAY \
    8 /* of units without an answer: each stands still until those before it are built */
#define ANSWER_MILLISECONDS 1000 /* to a unit; then the old proxy goes on with it, and with all others */
#define BYTES_A_MILLISECOND 8192 /* so much slower may a large one be */
#define AGAIN_MILLISECONDS  20   /* what cannot go just now is looked at again */
#define PATIENCE            3000
#define CONNECT_PATIENCE    500 /* what is being connected may need only a moment; then it is given up */

/* Something that shall go: a relay, a tunnel with all its streams, or what is undecided, which nobody else
 * has from the moment on in which it is written. */
struct unit {
    struct moving moving;
    struct list node; /* in giver.waiting or giver.sent */
    struct giver *giver;
    struct relay *relay; /* one of the three */
    struct tunnel *tunnel;
    struct undecided *undecided;
    uint32_t number; /* 0: not sent */
    size_t bytes, sockets;
    uint64_t since; /* pauses_now(): it stands still since then */
    bool writing;   /* what ends it now is its own writing, */
    bool gone;      /* as it has */
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
    struct turn_hook hook;
    struct loop_timer timer; /* the answer to the oldest unit */
    struct loop_timer again; /* what is left, or has come meanwhile, is looked at */
    struct list waiting, sent;
    bool looks;     /* for what is undecided */
    uint64_t late;  /* loop_now(): from then on also for what is being connected */
    uint64_t until; /* the same: nothing is asked again after that */
    size_t sockets; /* of sent */
    size_t pending; /* bytes of sent */
    uint32_t last_number;
    struct giver_report *report; /* for the control thread */
    bool over;
};

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

/* Why the last one has stayed. */
static void stays(struct giver *g, const char *why)
{
    snprintf(g->report->result.why, sizeof(g->report->result.why), "%s", why);
}

static void unit_withdraw(struct unit *u)
{
    if (u->relay)
        relay_withdraw(u->relay);
    else if (u->tunnel)
        tunnel_withdraw(u->tunnel);
    else
        undecided_begin(u->giver->worker, u->undecided);
}

static void unit_thaw(struct unit *u)
{
    if (u->relay)
        relay_thaw(u->relay);
    else if (u->tunnel)
        tunnel_thaw(u->tunnel);
    else
        undecided_stays(u->giver->worker, u->undecided);
}

static void unit_release(struct unit *u)
{
    if (u->relay)
        relay_release(u->relay);
    else if (u->tunnel)
        tunnel_release(u->tunnel);
    else
        undecided_forget(u->undecided);
}

typedef void (*candidate_fn)(struct giver *g, struct relay *relay, struct tunnel *tunnel);

/* With a tunnel of ours that has no streams nothing is lost: the next proxy opens its own. Those that wait
 * for it are undecided. */
static unsigned each_tunnel(struct giver *g, struct list *tunnels, candidate_fn fn)
{
    struct tunnel *t;
    unsigned n = 0;

    list_for_each (t, tunnels, node) {
        if (t->inner || (!t->server && !t->streams_len))
            continue;
        n++;
        if (fn)
            fn(g, NULL, t);
    }
    return n;
}

/* All that may go but what is undecided; returns how many there are. fn may be NULL. */
static unsigned each_candidate(struct giver *g, candidate_fn fn)
{
    struct worker_pod *wp;
    unsigned n = 0;

    list_for_each (wp, &g->worker->pods, node) {
        struct connection *c;

        list_for_each (c, &wp->connections, node) {
            struct relay *r = relay_of(c);

            if (!r || relay_connects(r))
                continue;
            n++;
            if (fn)
                fn(g, r, NULL);
        }
        n += each_tunnel(g, &wp->servers, fn);
        for (size_t i = 0; i < array_size(wp->clients); i++)
            n += each_tunnel(g, &wp->clients[i], fn);
    }
    return n;
}

/* How much there still is to go, of which the last one stays for the reason that is told. */
static unsigned count_left(struct giver *g)
{
    const char *why = NULL;
    unsigned undecided = undecided_count(g->worker, &why);

    if (undecided && !*g->report->result.why)
        stays(g, why);
    return each_candidate(g, NULL) + undecided;
}

static void withdraw_all(struct list *units)
{
    while (!list_empty(units)) {
        struct unit *u = list_first(units, struct unit, node);

        unit_withdraw(u);
        unit_free(u);
    }
}

/* Whatever has not gone goes on here. */
static void finish(struct giver *g, const char *why)
{
    struct wire_writer end = {};

    if (g->over)
        return;
    g->over = true;
    stays(g, why);
    loop_timer_cancel(&g->timer);
    loop_timer_cancel(&g->again);
    if (!list_empty(&g->hook.node))
        loop_short_turns(g->worker->loop, false);
    list_del(&g->hook.node);
    while (!list_empty(&g->sent)) {
        struct unit *u = list_first(&g->sent, struct unit, node);

        (void)lane_say(&g->lane, BRUMA_HANDOVER_BACK, u->number, NULL, NULL, 0);
        unit_thaw(u);
        unit_free(u);
    }
    withdraw_all(&g->waiting);
    g->report->result.left = count_left(g);
    if (!g->report->result.left)
        stays(g, "");
    wire_put_varint(&end, BRUMA_HANDOVER_FIELD_MOVED, g->report->result.moved);
    wire_put_varint(&end, BRUMA_HANDOVER_FIELD_LEFT, g->report->result.left);
    wire_put_varint(&end, BRUMA_HANDOVER_FIELD_PAUSE, g->report->result.pause_max);
    wire_put_string(&end, BRUMA_HANDOVER_FIELD_TEXT, g->report->result.why);
    (void)lane_say(&g->lane, BRUMA_HANDOVER_END, 0, &end, NULL, 0);
    lane_finish(&g->lane); /* that a unit is theirs may still wait to be said */
    if (loop_post(g->worker->proxy->loop, tell, g->report) < 0) {
        log_error("out of memory: the end of a hand-over is not told");
        abort();
    }
    loop_free_later(g->worker->loop, g);
}

/* ---- sending ---- */

/* Nothing more is waited for of it, or it was not sent. */
static void answered(struct giver *g, const struct unit *u)
{
    g->pending -= u->bytes;
    g->sockets -= u->sockets;
}

/* It has ended here, waiting or on its way. */
static void on_gone(struct moving *moving)
{
    struct unit *u = container_of(moving, struct unit, moving);
    struct giver *g = u->giver;

    if (u->writing) {
        u->gone = true;
        return;
    }
    if (u->number && lane_is_open(&g->lane))
        (void)lane_say(&g->lane, BRUMA_HANDOVER_BACK, u->number, NULL, NULL, 0);
    answered(g, u);
    unit_free(u);
}

/* Why it cannot go; NULL: it can, and is written and stands still. ret_fds is the caller's. */
static const char *write_unit(struct unit *u, struct wire_writer *payload, int **ret_fds, size_t *ret_fds_len)
{
    enum tunnel_stays stays;

    *ret_fds_len = u->relay ? RELAY_MOVE_FDS : u->tunnel ? tunnel_move_fds(u->tunnel) : 1;
    *ret_fds = malloc(*ret_fds_len * sizeof(int));
    if (!*ret_fds)
        return "no memory is left";
    if (u->relay)
        return relay_write(u->relay, payload, *ret_fds);
    if (u->undecided) {
        undecided_write(u->undecided, payload, *ret_fds);
        return payload->failed ? "no memory is left for the unit" : NULL;
    }
    payload->secret = true;
    u->moving.late = loop_now(u->giver->worker->loop) >= u->giver->late;
    stays = tunnel_write(u->tunnel, payload, *ret_fds);
    *ret_fds_len = tunnel_move_fds(u->tunnel);
    return stays == TUNNEL_MOVES ? NULL : tunnel_stays_text(stays);
}

static void wait_for_answer(struct giver *g)
{
    loop_timer_set(g->worker->loop, &g->timer, ANSWER_MILLISECONDS + g->pending / BYTES_A_MILLISECOND);
}

static int send_unit(struct giver *g, struct unit *u)
{
    struct wire_writer payload = {};
    size_t fds_len;
    int *fds, r = 0;
    const char *why;

    u->since = pauses_now();
    u->writing = true;
    why = write_unit(u, &payload, &fds, &fds_len);
    u->writing = false;
    if (why || u->gone) {
        stays(g, why ? why : "ended meanwhile");
        if (!u->gone)
            unit_withdraw(u);
        unit_free(u);
    } else {
        wire_put_varint(&payload, BRUMA_UNIT_SINCE, u->since);
        u->number = ++g->last_number;
        u->bytes = payload.len;
        u->sockets = fds_len;
        g->sockets += u->sockets;
        g->pending += u->bytes;
        list_del(&u->node);
        list_add_tail(&g->sent, &u->node);
        r = lane_say_unit(&g->lane, u->number, &payload, fds, fds_len);
        if (r >= 0 && !loop_timer_armed(&g->timer))
            wait_for_answer(g);
    }
    free(fds);
    wire_writer_clear(&payload);
    return r;
}

/* All has been asked once. What could not go may be able to in a moment, and more may have come. */
static void end_or_look_again(struct giver *g)
{
    struct loop *loop = g->worker->loop;
    char why[sizeof(g->report->result.why)];

    memcpy(why, g->report->result.why, sizeof(why));
    if (!count_left(g) || loop_now(loop) >= g->until)
        finish(g, why);
    else
        loop_timer_set(loop, &g->again, AGAIN_MILLISECONDS);
}

static struct unit *unit_new(struct giver *g)
{
    struct unit *u = calloc(1, sizeof(*u));

    if (!u) {
        stays(g, "no memory is left");
        return NULL;
    }
    u->moving.gone = on_gone;
    u->giver = g;
    list_init(&u->node);
    list_add_tail(&g->waiting, &u->node);
    return u;
}

/* One is let go and sent at once, for it is nobody's between. 0 or -errno of the lane; g->looks: there may be
 * more. */
static int send_undecided(struct giver *g)
{
    struct unit *u = unit_new(g);

    if (u)
        u->undecided = undecided_let_go(g->worker, loop_now(g->worker->loop) >= g->late);
    if (u && u->undecided)
        return send_unit(g, u);
    if (u)
        unit_free(u);
    g->looks = false;
    return 0;
}

/* At the end of a turn: what has been said in it has been sent. Answers do not wait until it is their turn:
 * meanwhile nobody serves what they are about. */
static void on_turn_end(struct turn_hook *hook)
{
    struct giver *g = container_of(hook, struct giver, hook);

    lane_hear(&g->lane);
    while (!g->over && (g->looks || !list_empty(&g->waiting))) {
        int r;

        if (g->pending >= BRUMA_HANDOVER_PENDING_MAX || g->sockets >= SOCKETS_UNDER_WAY)
            return;
        r = g->looks ? send_undecided(g) : send_unit(g, list_first(&g->waiting, struct unit, node));
        if (r < 0) {
            finish(g, "the lane has failed");
            return;
        }
    }
    if (!g->over && list_empty(&g->sent) && !loop_timer_armed(&g->again))
        end_or_look_again(g);
}

static void add(struct giver *g, struct relay *relay, struct tunnel *tunnel)
{
    struct unit *u = unit_new(g);

    if (!u)
        return;
    u->relay = relay;
    u->tunnel = tunnel;
    if (relay)
        relay_offer(relay, &u->moving);
    else
        tunnel_offer(tunnel, &u->moving);
}

/* Nothing is on its way: what is still here is asked. */
static void on_again(struct loop_timer *timer)
{
    struct giver *g = container_of(timer, struct giver, again);

    each_candidate(g, add);
    g->looks = true;
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
    struct giver_result *result = &g->report->result;
    uint64_t pause;

    if (lane_say(&g->lane, BRUMA_HANDOVER_YOURS, u->number, NULL, NULL, 0) < 0) {
        stays(g, "the lane has failed");
        unit_thaw(u);
        return;
    }
    unit_release(u);
    pause = (pauses_now() - u->since) / 1000;
    result->moved++;
    result->pause_sum += pause;
    if (pause > result->pause_max)
        result->pause_max = pause;
}

static void refused(struct giver *g, struct unit *u, const struct lane_message *m)
{
    struct wire_reader reader = wire_reader(m->payload, m->len);
    char why[sizeof(g->report->result.why)] = "refused";
    struct wire_field f;

    while (wire_next(&reader, &f) > 0) {
        if (f.number == BRUMA_HANDOVER_FIELD_TEXT && f.type == WIRE_BYTES)
            snprintf(why, sizeof(why), "%.*s", (int)(f.len < sizeof(why) ? f.len : sizeof(why) - 1), f.bytes);
    }
    stays(g, why);
    unit_thaw(u);
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
    answered(g, u);
    if (m->head.kind == BRUMA_HANDOVER_IMPORTED)
        gave(g, u);
    else
        refused(g, u, m);
    unit_free(u);
    if (list_empty(&g->sent))
        loop_timer_cancel(&g->timer);
    else
        wait_for_answer(g);
    return true; /* and more may go at the end of this turn */
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

struct giver_start {
    struct giver *giver;
    int fd;
};

static void begin(void *data)
{
    struct giver_start *s = data;
    struct giver *g = s->giver;
    struct worker_pod *wp;
    int r = lane_open(&g->lane, g->worker->loop, s->fd, &events);

    free(s);
    if (r < 0) {
        finish(g, "the lane cannot be opened");
        return;
    }
    list_for_each (wp, &g->worker->pods, node)
        wp->keeps_undecided = false;
    each_candidate(g, add);
    g->looks = true;
    g->late = loop_now(g->worker->loop) + CONNECT_PATIENCE;
    g->until = loop_now(g->worker->loop) + PATIENCE;
    list_add_tail(&g->worker->turn_hooks, &g->hook.node);
    loop_short_turns(g->worker->loop, true);
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
    list_init(&g->hook.node);
    g->hook.fn = on_turn_end;
    loop_timer_init(&g->timer, on_timer);
    loop_timer_init(&g->again, on_again);
    *s = (struct giver_start){g, fd};
    if (loop_post(w->loop, begin, s) < 0) {
        log_error("out of memory: a hand-over cannot begin");
        abort();
    }
}
