/* SPDX-License-Identifier: Apache-2.0 */
/* The workload discovery socket: which stock proxies are taken. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/proxies/zds_peers.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"

#define LOG_SCOPE "proxies"
#include "lib/log.h"

#define PEERS_MAX 16
#define BETWEEN_PEERS \
    200 /* milliseconds between two connections: a stock proxy that was refused dials again at once */
#define REFUSAL_REST 30000 /* milliseconds between two lines about refusals */

static void refuse(struct zds_server *s, pid_t pid, enum bruma_reason reason, const char *text)
{
    uint64_t now = loop_now(s->loop);

    if (s->refused_at && now < s->refused_at + REFUSAL_REST)
        return;
    s->refused_at = now;
    log_error("a node proxy is refused\tpid=%d reason=%s error=\"%s\" check=\"%s\"", (int)pid,
              reason_name(reason), text, reason_check(reason));
}

static void admit(struct zds_server *s, int *fd, pid_t pid)
{
    struct steer_error error = {0};
    _cleanup_fd_ int pidfd = -1;

    if (s->peers_len >= PEERS_MAX) {
        refuse(s, pid, BRUMA_REASON_ZDS_PROTOCOL, "too many are connected");
        return;
    }
    /* 0: in a PID namespace that cannot be seen from here */
    pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
    if (pidfd < 0) {
        refuse(s, pid, BRUMA_REASON_PROXY_CGROUP, "its process is not visible");
        return;
    }
    if (proxy_cgroups_add(s->cgroups, pid, &error) < 0) {
        refuse(s, pid, error.reason, error.text);
        return;
    }
    if (!zds_peer_new(s, *fd, pid, pidfd))
        return;
    take_fd(fd);
    take_fd(&pidfd);
}

static void on_listener(struct loop_watch *watch, uint32_t events)
{
    struct zds_server *s = container_of(watch, struct zds_server, listener.watch);
    pid_t pid = 0;
    _cleanup_fd_ int fd = seqpacket_accept(watch->fd, &pid);

    (void)events;
    if (fd < 0 && accept_rest(&s->rest, fd, "the workload discovery socket"))
        return;
    if (fd == -EPERM)
        refuse(s, pid, BRUMA_REASON_ZDS_PROTOCOL, "it does not run as root");
    else if (fd >= 0)
        admit(s, &fd, pid);
    loop_watch_modify(s->loop, watch, 0);
    loop_timer_set(s->loop, &s->accept_again, BETWEEN_PEERS);
}

static void on_accept_again(struct loop_timer *timer)
{
    struct zds_server *s = container_of(timer, struct zds_server, accept_again);

    loop_watch_modify(s->loop, &s->listener.watch, EPOLLIN);
}

/* The directory is the node's, and mounted into both pods. */
static void make_directory(const char *path)
{
    _cleanup_free_ char *directory = strdup(path);
    char *slash = directory ? strrchr(directory, '/') : NULL;

    if (!slash || slash == directory)
        return;
    *slash = '\0';
    if (mkdir(directory, 0755) < 0 && errno != EEXIST)
        log_warn_errno(errno, "the directory cannot be made\tpath=%s", directory);
}

int zds_accept_open(struct zds_server *s)
{
    int r;

    loop_timer_init(&s->accept_again, on_accept_again);
    make_directory(s->settings->zds_socket);
    r = seqpacket_listener_open(&s->listener, s->loop, s->settings->zds_socket, 0600, on_listener);
    if (r == 0)
        accept_rest_init(&s->rest, s->loop, &s->listener.watch);
    return r;
}

void zds_accept_close(struct zds_server *s)
{
    loop_timer_cancel(&s->accept_again);
    accept_rest_cancel(&s->rest);
    seqpacket_listener_close(&s->listener);
}
