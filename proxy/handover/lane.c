/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "hand-over"
#include "proxy/handover/lane.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/seqpacket.h"

#define PART_MAX          (BRUMA_HANDOVER_MESSAGE_MAX - sizeof(struct bruma_handover_head))
#define MESSAGES_PER_TURN 64
#define SOCKET_BYTES      (4 << 20) /* that may be under way */

static void on_lane(struct loop_watch *watch, uint32_t events);

int lane_open(struct lane *lane, struct loop *loop, int fd, const struct lane_events *events)
{
    int bytes = SOCKET_BYTES, r;

    memset(lane, 0, sizeof(*lane));
    lane->watch.fd = -1;
    lane->loop = loop;
    lane->events = events;
    outbox_init(&lane->outbox);
    lane->outbox.wipes = true;
    lane->buffer = malloc(BRUMA_HANDOVER_MESSAGE_MAX + 1);
    /* Where it may not, less is under way at a time. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
    r = lane->buffer ? loop_watch_add(loop, &lane->watch, fd, EPOLLIN, on_lane) : -ENOMEM;
    if (r < 0) {
        close(fd);
        free(lane->buffer);
        lane->buffer = NULL;
        lane->watch.fd = -1;
    }
    return r;
}

bool lane_is_open(const struct lane *lane)
{
    return lane->buffer && lane->watch.fd >= 0;
}

void lane_close(struct lane *lane)
{
    int fd = lane->watch.fd;

    if (!lane_is_open(lane))
        return;
    loop_watch_remove(lane->loop, &lane->watch);
    close(fd);
    outbox_clear(&lane->outbox);
    free(lane->buffer);
    lane->buffer = NULL;
}

/* ---- what is still to be heard ---- */

/* Of a lane whose owner is done with it. The other end closes it, or its process ends. */
struct rest {
    struct list node; /* in rests, of all threads: a process that ends may have some */
    struct loop *loop;
    struct loop_watch watch;
    struct outbox outbox;
};

static struct list rests = {&rests, &rests};
static pthread_mutex_t rests_lock = PTHREAD_MUTEX_INITIALIZER;

static void rest_end(struct rest *rest)
{
    int fd = rest->watch.fd;

    pthread_mutex_lock(&rests_lock);
    list_del(&rest->node);
    pthread_mutex_unlock(&rests_lock);
    loop_watch_remove(rest->loop, &rest->watch);
    close(fd);
    outbox_clear(&rest->outbox);
    loop_free_later(rest->loop, rest);
}

static int rest_flush(struct rest *rest)
{
    int r = outbox_flush(&rest->outbox, rest->watch.fd);

    if (r == 0 && shutdown(rest->watch.fd, SHUT_WR) < 0)
        r = -errno;
    return r == 0 ? loop_watch_modify(rest->loop, &rest->watch, EPOLLIN) : r;
}

/* A socket that is closed with messages unread resets the other end, which then does not hear the last ones.
 */
static void on_rest(struct loop_watch *watch, uint32_t events)
{
    struct rest *rest = container_of(watch, struct rest, watch);
    int r = events & EPOLLOUT ? rest_flush(rest) : 0;
    ssize_t n = 1;
    uint8_t byte;

    if (r < 0 && r != -EAGAIN) {
        rest_end(rest);
        return;
    }
    for (int i = 0; i < MESSAGES_PER_TURN && n > 0; i++)
        n = recv(watch->fd, &byte, sizeof(byte), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        rest_end(rest);
}

void lane_finish(struct lane *lane)
{
    struct rest *rest;
    int fd = lane->watch.fd;

    if (!lane_is_open(lane))
        return;
    rest = calloc(1, sizeof(*rest));
    loop_watch_remove(lane->loop, &lane->watch);
    if (rest) {
        list_init(&rest->node);
        rest->loop = lane->loop;
        outbox_move(&rest->outbox, &lane->outbox);
    }
    if (!rest || loop_watch_add(lane->loop, &rest->watch, fd, EPOLLIN | EPOLLOUT, on_rest) < 0) {
        log_error("out of memory: the end of a lane is not heard");
        abort(); /* what has been said decides whose the connections are */
    }
    pthread_mutex_lock(&rests_lock);
    list_add_tail(&rests, &rest->node);
    pthread_mutex_unlock(&rests_lock);
    free(lane->buffer);
    lane->buffer = NULL;
}

static void end(struct lane *lane)
{
    lane_close(lane);
    lane->events->ended(lane);
}

static int send_part(struct lane *lane, const struct bruma_handover_head *head, const uint8_t *payload,
                     size_t len, const int *fds, size_t fds_len)
{
    char *text;
    int r;

    if (!lane_is_open(lane))
        return -ENOTCONN;
    text = malloc(sizeof(*head) + len);
    if (!text)
        return -ENOMEM;
    memcpy(text, head, sizeof(*head));
    if (len)
        memcpy(text + sizeof(*head), payload, len);
    r = outbox_send(&lane->outbox, lane->watch.fd, text, sizeof(*head) + len, fds, fds_len);
    if (r > 0)
        r = loop_watch_modify(lane->loop, &lane->watch, EPOLLIN | EPOLLOUT);
    return r;
}

int lane_say(struct lane *lane, enum bruma_handover_kind kind, uint32_t unit, struct wire_writer *payload,
             const int *fds, size_t fds_len)
{
    const struct bruma_handover_head head = {.kind = (uint8_t)kind, .unit = unit};
    int r;

    if (!payload)
        return send_part(lane, &head, NULL, 0, fds, fds_len);
    r = payload->failed || payload->len > PART_MAX
            ? -ENOMEM
            : send_part(lane, &head, payload->data, payload->len, fds, fds_len);
    wire_writer_clear(payload);
    return r;
}

int lane_say_unit(struct lane *lane, uint32_t unit, const struct wire_writer *payload, const int *fds,
                  size_t fds_len)
{
    struct bruma_handover_head head = {.kind = BRUMA_HANDOVER_UNIT, .unit = unit};
    size_t at = 0, fds_at = 0;
    int r;

    do {
        size_t n = payload->len - at < PART_MAX ? payload->len - at : PART_MAX;
        size_t k = fds_len - fds_at < BRUMA_HANDOVER_FDS_MAX ? fds_len - fds_at : BRUMA_HANDOVER_FDS_MAX;

        head.more = at + n < payload->len || fds_at + k < fds_len;
        r = send_part(lane, &head, payload->data + at, n, fds + fds_at, k);
        at += n;
        fds_at += k;
    } while (r >= 0 && head.more);
    return r;
}

/* False: the lane is no more. */
static bool receive(struct lane *lane)
{
    int fds[BRUMA_HANDOVER_FDS_MAX];
    struct lane_message m = {.fds = fds};
    ssize_t n = seqpacket_receive_short(lane->watch.fd, lane->buffer, BRUMA_HANDOVER_MESSAGE_MAX + 1, fds,
                                        BRUMA_HANDOVER_FDS_MAX, &m.fds_len, &m.is_short);
    bool good;

    if (n == -EAGAIN)
        return false;
    if (n < (ssize_t)sizeof(m.head)) {
        if (n > 0)
            close_fds(fds, m.fds_len);
        end(lane);
        return false;
    }
    memcpy(&m.head, lane->buffer, sizeof(m.head));
    m.payload = lane->buffer + sizeof(m.head);
    m.len = (size_t)n - sizeof(m.head);
    good = lane->events->message(lane, &m);
    close_fds(fds, m.fds_len);
    if (lane->buffer)
        explicit_bzero(lane->buffer, (size_t)n); /* there may be keys in it */
    if (!good)
        end(lane);
    return good && lane_is_open(lane);
}

void lane_hear(struct lane *lane)
{
    for (int i = 0; i < MESSAGES_PER_TURN && lane_is_open(lane) && receive(lane); i++)
        ;
}

static void on_lane(struct loop_watch *watch, uint32_t events)
{
    struct lane *lane = container_of(watch, struct lane, watch);
    int r;

    if (events & EPOLLOUT) {
        r = outbox_flush(&lane->outbox, watch->fd);
        if (r == 0)
            r = loop_watch_modify(lane->loop, watch, EPOLLIN);
        if (r < 0 && r != -EAGAIN) {
            end(lane);
            return;
        }
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        lane_hear(lane);
}
