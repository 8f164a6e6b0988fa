/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "hand-over"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "proxy/handover/handover.h"
#include "proxy/handover/rendezvous_internal.h"
#include "proxy/proxy.h"

#define AGAIN_MILLISECONDS  100
#define ABSENT_MILLISECONDS 1500 /* for one whose place was taken to notice that it is free */
#define BUSY_MILLISECONDS   5000 /* for one that takes from another one */
#define ANSWER_MILLISECONDS 2000

bool rendezvous_trusts(struct rendezvous *rendezvous, int fd)
{
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t len = sizeof(peer);
    uint64_t unsaid;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == 0 || peer.uid == geteuid()))
        return true;
    if (log_rest_over(&rendezvous->refused, loop_now(rendezvous->loop), &unsaid))
        log_error("a process at the hand-over socket is not trusted\treason=%s uid=%d pid=%d socket=\"%s\" "
                  "unsaid=%llu",
                  reason_name(BRUMA_REASON_HAND_OVER_REFUSED), (int)peer.uid, (int)peer.pid, rendezvous->path,
                  (unsigned long long)unsaid);
    return false;
}

static void give_up(struct rendezvous *r, const char *why)
{
    lane_close(&r->lane);
    loop_timer_cancel(&r->timer);
    r->leaving = false;
    log_info("live connections are not handed over\twhy=\"%s\"", why);
    r->events->alone(r->proxy);
}

/* It is tried for so many milliseconds. */
static void again(struct rendezvous *r, uint64_t within, const char *why)
{
    lane_close(&r->lane);
    if (loop_now(r->loop) - r->begun >= within)
        give_up(r, why);
    else
        loop_timer_set(r->loop, &r->timer, AGAIN_MILLISECONDS);
}

static void refused(struct rendezvous *r, const struct lane_message *m)
{
    struct wire_reader reader = wire_reader(m->payload, m->len);
    char why[128] = "it was refused";
    bool later = false;
    struct wire_field f;

    while (wire_next(&reader, &f) > 0) {
        if (f.number == BRUMA_HANDOVER_FIELD_TEXT && f.type == WIRE_BYTES)
            snprintf(why, sizeof(why), "%.*s", (int)(f.len < sizeof(why) ? f.len : sizeof(why) - 1), f.bytes);
        later |= f.number == BRUMA_HANDOVER_FIELD_AGAIN && f.type == WIRE_VARINT && f.value;
    }
    if (later)
        again(r, BUSY_MILLISECONDS, why);
    else
        give_up(r, why);
}

static void welcomed(struct rendezvous *r)
{
    int fd = fcntl(r->lane.watch.fd, F_DUPFD_CLOEXEC, 0), e = fd < 0 ? -errno : 0;

    lane_close(&r->lane);
    loop_timer_cancel(&r->timer);
    if (e == 0)
        e = handover_give(r->proxy->handover, fd);
    if (e < 0)
        give_up(r, strerror(-e));
    r->leaving = false;
}

static bool on_message(struct lane *lane, const struct lane_message *m)
{
    struct rendezvous *r = container_of(lane, struct rendezvous, lane);

    if (m->head.kind == BRUMA_HANDOVER_WELCOME)
        welcomed(r);
    else if (m->head.kind == BRUMA_HANDOVER_REFUSED)
        refused(r, m);
    else
        return false;
    return true;
}

static void on_ended(struct lane *lane)
{
    again(container_of(lane, struct rendezvous, lane), ABSENT_MILLISECONDS, "the other proxy has gone");
}

static const struct lane_events events = {on_message, on_ended};

/* Across process ID namespaces no number names a process, but a descriptor does. */
static int introduce(struct rendezvous *r, int fd)
{
    _cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    int e;

    if (pidfd < 0) {
        e = -errno;
        close(fd);
        return e;
    }
    e = lane_open(&r->lane, r->loop, fd, &events);
    return e < 0 ? e : lane_say(&r->lane, BRUMA_HANDOVER_MEET, 0, NULL, &pidfd, 1);
}

static void attempt(struct rendezvous *r)
{
    int fd = seqpacket_connect(r->path, 0, true), e;

    if (fd == -ENOENT || fd == -ECONNREFUSED) {
        again(r, ABSENT_MILLISECONDS, "there is no other proxy");
        return;
    }
    if (fd < 0) {
        again(r, BUSY_MILLISECONDS, strerror(-fd));
        return;
    }
    if (!rendezvous_trusts(r, fd)) {
        close(fd);
        give_up(r, "who is there is not trusted");
        return;
    }
    e = introduce(r, fd);
    if (e < 0)
        give_up(r, strerror(-e));
    else
        loop_timer_set(r->loop, &r->timer, ANSWER_MILLISECONDS);
}

static void on_timer(struct loop_timer *timer)
{
    struct rendezvous *r = container_of(timer, struct rendezvous, timer);

    if (lane_is_open(&r->lane))
        give_up(r, "the other proxy does not answer");
    else
        attempt(r);
}

void rendezvous_visit(struct rendezvous *r)
{
    if (r->leaving)
        return;
    r->leaving = true;
    r->begun = loop_now(r->loop);
    loop_timer_init(&r->timer, on_timer);
    attempt(r);
}
