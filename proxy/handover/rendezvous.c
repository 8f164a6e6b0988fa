/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "hand-over"
#include "proxy/handover/rendezvous.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/handover/handover.h"
#include "proxy/handover/rendezvous_internal.h"
#include "proxy/proxy.h"

#define READY_LOOK_MILLISECONDS 50   /* until it is ready */
#define LOOK_MILLISECONDS       1000 /* whether the place is still taken */
#define MEET_MILLISECONDS       2000 /* for who has connected to say what it wants */
#define GUESTS_MAX              16

/* One that has connected. */
struct guest {
    struct list node;
    struct rendezvous *rendezvous;
    struct lane lane;
    struct loop_timer timer;
};

/* ---- who has connected ---- */

static void guest_free(struct guest *g)
{
    loop_timer_cancel(&g->timer);
    lane_close(&g->lane);
    list_del(&g->node);
    g->rendezvous->guests_len--;
    loop_free_later(g->rendezvous->loop, g);
}

static void refuse(struct guest *g, const char *why, bool again)
{
    struct wire_writer payload = {};

    wire_put_string(&payload, BRUMA_HANDOVER_FIELD_TEXT, why);
    if (again)
        wire_put_varint(&payload, BRUMA_HANDOVER_FIELD_AGAIN, 1);
    (void)lane_say(&g->lane, BRUMA_HANDOVER_REFUSED, 0, &payload, NULL, 0);
    lane_finish(&g->lane); /* it may have said something that is not read any more */
    guest_free(g);
}

/* The socket goes on as the one on which the hand-over is agreed upon. */
static void welcome(struct guest *g, int *pidfd)
{
    int fd = fcntl(g->lane.watch.fd, F_DUPFD_CLOEXEC, 0), r;

    r = fd < 0 ? -errno : handover_take(g->rendezvous->proxy->handover, fd, take_fd(pidfd));
    if (r < 0) {
        refuse(g, r == -EALREADY ? "it takes from another one just now" : strerror(-r), r == -EALREADY);
        return;
    }
    (void)lane_say(&g->lane, BRUMA_HANDOVER_WELCOME, 0, NULL, NULL, 0);
    guest_free(g);
}

static bool on_message(struct lane *lane, const struct lane_message *m)
{
    struct guest *g = container_of(lane, struct guest, lane);

    if (m->head.kind != BRUMA_HANDOVER_MEET)
        return false;
    if (m->is_short)
        refuse(g, "no descriptors are left", false);
    else if (m->fds_len != 1)
        refuse(g, "it does not say by a pidfd who it is", false);
    else
        welcome(g, &m->fds[0]);
    return true;
}

static void on_ended(struct lane *lane)
{
    guest_free(container_of(lane, struct guest, lane));
}

static const struct lane_events guest_events = {on_message, on_ended};

static void on_guest_timer(struct loop_timer *timer)
{
    refuse(container_of(timer, struct guest, timer), "it says nothing", false);
}

/* Takes fd. */
static void receive(struct rendezvous *r, int fd)
{
    bool trusted = rendezvous_trusts(r, fd);
    struct guest *g = calloc(1, sizeof(*g));

    if (!g || lane_open(&g->lane, r->loop, fd, &guest_events) < 0) {
        if (!g)
            close(fd);
        free(g);
        return;
    }
    g->rendezvous = r;
    list_init(&g->node);
    list_add_tail(&r->guests, &g->node);
    loop_timer_init(&g->timer, on_guest_timer);
    if (++r->guests_len > GUESTS_MAX)
        refuse(g, "too many are here", true);
    else if (!trusted)
        refuse(g, reason_name(BRUMA_REASON_HAND_OVER_REFUSED), false);
    else
        loop_timer_set(r->loop, &g->timer, MEET_MILLISECONDS);
}

static void on_connections(struct loop_watch *watch, uint32_t events)
{
    struct rendezvous *r = container_of(watch, struct rendezvous, listener.watch);

    (void)events;
    for (int i = 0; i < GUESTS_MAX; i++) {
        int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0)
            receive(r, fd);
        else if (accept_rest(&r->rest, -errno, "the hand-over socket") || errno == EAGAIN)
            return;
    }
}

/* ---- the place ---- */

static void stop_listening(struct rendezvous *r)
{
    if (!r->listener.path)
        return;
    accept_rest_cancel(&r->rest);
    seqpacket_listener_close(&r->listener);
}

/* What is there already was left by one that died, or is of one that this one takes over from. */
static void listen_there(struct rendezvous *r)
{
    uint64_t unsaid;
    int e = seqpacket_listener_open(&r->listener, r->loop, r->path, 0600, on_connections);

    if (e == 0)
        log_info("connections of other proxies are taken over\tsocket=\"%s\"", r->path);
    else if (log_rest_over(&r->unusable, loop_now(r->loop), &unsaid))
        log_warn_errno(e, "no connections of other proxies can be taken over\tsocket=\"%s\"", r->path);
}

/* The one that came after it has ended and left nothing: this one is the next again. */
static bool place_is_free(const struct rendezvous *r)
{
    struct stat st;

    return !r->listener.path || (stat(r->path, &st) < 0 && errno == ENOENT);
}

static void on_look(struct loop_timer *timer)
{
    struct rendezvous *r = container_of(timer, struct rendezvous, look);

    if (!r->events->ready(r->proxy) && !r->listener.path) {
        loop_timer_set(r->loop, timer, READY_LOOK_MILLISECONDS);
        return;
    }
    if (place_is_free(r)) {
        stop_listening(r);
        listen_there(r);
    }
    loop_timer_set(r->loop, timer, LOOK_MILLISECONDS);
}

/* Takes nothing any more. */
static void close_up(struct rendezvous *r)
{
    loop_timer_cancel(&r->look);
    stop_listening(r);
    while (!list_empty(&r->guests))
        refuse(list_first(&r->guests, struct guest, node), "it ends as well", true);
}

void rendezvous_leave(struct rendezvous *r, bool gives)
{
    if (!r)
        return;
    close_up(r);
    if (gives)
        rendezvous_visit(r);
}

bool rendezvous_is_leaving(const struct rendezvous *r)
{
    return r && r->leaving;
}

int rendezvous_new(struct proxy *proxy, const char *path, const struct rendezvous_events *events,
                   struct rendezvous **ret)
{
    struct rendezvous *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    r->proxy = proxy;
    r->loop = proxy->loop;
    r->events = events;
    r->path = path;
    list_init(&r->guests);
    accept_rest_init(&r->rest, r->loop, &r->listener.watch);
    loop_timer_init(&r->look, on_look);
    loop_timer_set(r->loop, &r->look, 0);
    *ret = r;
    return 0;
}

void rendezvous_free(struct rendezvous **ptr)
{
    struct rendezvous *r = *ptr;

    if (!r)
        return;
    close_up(r);
    if (r->leaving)
        loop_timer_cancel(&r->timer);
    lane_close(&r->lane);
    free(r);
    *ptr = NULL;
}
