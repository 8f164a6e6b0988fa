/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/proxies/zds_peers.h"
#include "lib/proc.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "lib/zds.h"

#define LOG_SCOPE "proxies"
#include "lib/log.h"

#define ANSWER_MAX 5000 /* milliseconds for the greeting and for each answer */

struct zds_peer *zds_find_serving(const struct zds_server *s)
{
    struct zds_peer *p, *found = NULL;

    list_for_each (p, &s->peers, node) {
        if (p->state == ZDS_SERVING)
            found = p;
    }
    return found;
}

void zds_assignment_set_pending(struct zds_assignment *a, enum zds_command command)
{
    a->pending = command;
    pod_assignment_set_pending(&a->base, command != ZDS_COMMAND_NONE);
}

static void end_badly(struct zds_peer *p, const char *what)
{
    log_error("a node proxy is disconnected\tpid=%d reason=%s error=\"%s\"", (int)p->process.pid,
              reason_name(BRUMA_REASON_ZDS_PROTOCOL), what);
    zds_peer_close(p);
}

static void on_deadline(struct loop_timer *timer)
{
    struct zds_peer *p = container_of(timer, struct zds_peer, deadline);

    if (p->send_error)
        end_badly(p, strerror(-p->send_error));
    else
        end_badly(p, p->state == ZDS_GREETING ? "it did not greet in time" : "it did not answer in time");
}

static void await_answer(struct zds_peer *p)
{
    p->asked = true;
    loop_timer_set(p->server->loop, &p->deadline, ANSWER_MAX);
}

/* ---- sending ---- */

static int send_request(struct zds_peer *p, const struct zds_request *request, const int *fds, size_t fds_len)
{
    uint8_t buf[ZDS_MESSAGE_MAX];
    ssize_t n = zds_request_encode(request, buf);
    int r = n < 0 ? (int)n : seqpacket_send(p->socket.fd, buf, (size_t)n, fds, fds_len);

    if (r == 0)
        await_answer(p);
    return r;
}

static int send_about(struct zds_peer *p, struct zds_assignment *a, enum zds_command command)
{
    struct zds_request request = {.kind = ZDS_DEL, .uid = a->base.uid};
    int r;

    if (command != ZDS_COMMAND_ADD) {
        r = send_request(p, &request, NULL, 0);
    } else {
        request.kind = ZDS_ADD;
        request.has_info = true;
        request.name = a->base.pod->name;
        request.namespace = a->base.pod->namespace;
        request.service_account = a->base.pod->enrollment->service_account;
        r = send_request(p, &request, &a->base.pod->netns_fd, ZDS_ADD_FDS);
        a->sent |= r == 0;
        free(a->account);
        a->account = strdup(a->base.pod->enrollment->service_account);
        a->state = ZDS_ASSIGNMENT_PENDING;
    }
    if (r == 0) {
        p->asked_assignment = a;
        p->asked_command = command;
    }
    return r;
}

/* One message, or none. False: there is nothing to send, or it cannot be sent now. */
static bool send_next(struct zds_peer *p)
{
    struct zds_assignment *a;
    enum zds_command command;
    int r;

    if (list_empty(&p->assignments.pending)) {
        if (p->state != ZDS_SYNCING)
            return false;
        r = send_request(p, &(struct zds_request){.kind = ZDS_SNAPSHOT_SENT}, NULL, 0);
        p->asked_snapshot = r == 0;
    } else {
        a = list_first(&p->assignments.pending, struct zds_assignment, base.pending);
        command = a->pending;
        zds_assignment_set_pending(a, ZDS_COMMAND_NONE);
        r = send_about(p, a, command);
        if (r == -EMSGSIZE) {
            p->server->peer_events->answered(a, command, "its names are too long for a message");
            return true;
        }
    }
    if (r < 0) {
        /* Soon rather than now: callers are in the middle of something. */
        p->send_error = r;
        p->asked = true;
        loop_timer_set(p->server->loop, &p->deadline, 0);
    }
    return false;
}

void zds_peer_push(struct zds_peer *p)
{
    while (!p->closed && p->state != ZDS_GREETING && !p->asked && send_next(p))
        ;
}

/* ---- receiving ---- */

static void on_hello(struct zds_peer *p, const void *data, size_t len)
{
    unsigned version;

    if (zds_hello_decode(data, len, &version) < 0 || version < ZDS_VERSION) {
        end_badly(p, "its greeting cannot be understood");
        return;
    }
    loop_timer_cancel(&p->deadline);
    p->state = ZDS_SYNCING;
    log_info("node proxy connected\tkind=ztunnel pid=%d", (int)p->process.pid);
    p->server->peer_events->greeted(p);
}

static void on_snapshot_answer(struct zds_peer *p, const char *error)
{
    struct zds_peer *serving;

    p->asked_snapshot = false;
    if (*error) {
        end_badly(p, error);
        return;
    }
    p->state = ZDS_SERVING;
    serving = zds_find_serving(p->server);
    log_info("node proxy serves\tkind=ztunnel pid=%d%s", (int)p->process.pid,
             serving == p ? "" : " behind=younger");
    if (serving == p)
        p->server->peer_events->took_over(p);
    if (p->server->events.serves)
        p->server->events.serves(p->server->events.data);
}

static void on_response(struct zds_peer *p, const void *data, size_t len)
{
    struct zds_assignment *a = p->asked_assignment;
    char error[ZDS_MESSAGE_MAX];

    if (!p->asked) {
        end_badly(p, "an unexpected message");
        return;
    }
    if (zds_response_decode(data, len, error, sizeof(error)) < 0) {
        end_badly(p, "its answer cannot be understood");
        return;
    }
    p->asked = false;
    p->asked_assignment = NULL;
    loop_timer_cancel(&p->deadline);
    if (p->asked_snapshot)
        on_snapshot_answer(p, error);
    else if (a)
        p->server->peer_events->answered(a, p->asked_command, *error ? error : NULL);
}

static void on_socket(struct loop_watch *watch, uint32_t events)
{
    struct zds_peer *p = container_of(watch, struct zds_peer, socket);
    char buf[ZDS_MESSAGE_MAX + 1];
    int fds[1];
    size_t fds_len;
    ssize_t n = seqpacket_receive(watch->fd, buf, sizeof(buf), fds, 1, &fds_len);

    (void)events;
    if (n == -EAGAIN)
        return;
    if (n == -EMSGSIZE || fds_len) {
        close_fds(fds, fds_len);
        end_badly(p, fds_len ? "a message with descriptors" : "a message that is too long");
        return;
    }
    /* An empty datagram looks like the end too; it is no message either. */
    if (n <= 0) {
        zds_peer_close(p);
        return;
    }
    if (p->state == ZDS_GREETING)
        on_hello(p, buf, (size_t)n);
    else
        on_response(p, buf, (size_t)n);
    zds_peer_push(p);
}

/* ---- life ---- */

/* Connections come in any order after a restart of the agent; the youngest process is the one to serve. */
static void insert_by_age(struct zds_server *s, struct zds_peer *p)
{
    struct zds_peer *other;

    list_for_each (other, &s->peers, node) {
        if (p->born && other->born > p->born) {
            list_add_tail(&other->node, &p->node);
            return;
        }
    }
    list_add_tail(&s->peers, &p->node);
}

struct zds_peer *zds_peer_new(struct zds_server *s, int fd, pid_t pid, int pidfd)
{
    struct zds_peer *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->server = s;
    p->process = (struct steer_process){.pid = pid, .pidfd = pidfd};
    p->connected_at = loop_now(s->loop);
    p->born = proc_start(pid);
    list_init(&p->node);
    pod_assignments_init(&p->assignments);
    loop_timer_init(&p->deadline, on_deadline);
    loop_timer_init(&p->look_again, NULL);
    if (loop_watch_add(s->loop, &p->socket, fd, EPOLLIN, on_socket) < 0) {
        free(p);
        return NULL;
    }
    insert_by_age(s, p);
    s->peers_len++;
    loop_timer_set(s->loop, &p->deadline, ANSWER_MAX);
    return p;
}

void zds_peer_close(struct zds_peer *p)
{
    struct zds_server *s = p->server;
    bool served = p == zds_find_serving(s);
    struct zds_peer *next;
    int fd = p->socket.fd;

    if (p->closed)
        return;
    p->closed = true;
    log_info("node proxy disconnected\tkind=ztunnel pid=%d", (int)p->process.pid);
    loop_watch_remove(s->loop, &p->socket);
    close(fd);
    close(p->process.pidfd);
    loop_timer_cancel(&p->deadline);
    loop_timer_cancel(&p->look_again);
    list_del(&p->node);
    s->peers_len--;
    s->peer_events->closed(p);
    loop_free_later(s->loop, p);
    next = zds_find_serving(s);
    if (served && next) {
        log_info("node proxy serves again\tkind=ztunnel pid=%d", (int)next->process.pid);
        s->peer_events->took_over(next);
    }
    s->events.gone(s->events.data);
}
