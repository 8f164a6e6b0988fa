/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/seqpacket.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "lib/cleanup.h"

static int socket_address(const char *path, struct sockaddr_un *ret)
{
    size_t len = strlen(path);

    memset(ret, 0, sizeof(*ret));
    ret->sun_family = AF_UNIX;
    if (!len || len >= sizeof(ret->sun_path))
        return -ENAMETOOLONG;
    memcpy(ret->sun_path, path, len);
    return 0;
}

int seqpacket_listen(const char *path, mode_t mode)
{
    struct sockaddr_un final, temporary;
    _cleanup_fd_ int fd = -1;
    char name[sizeof(final.sun_path)];
    int r = socket_address(path, &final);

    if (r < 0)
        return r;
    if (snprintf(name, sizeof(name), "%s.new", path) >= (int)sizeof(name))
        return -ENAMETOOLONG;
    r = socket_address(name, &temporary);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    unlink(name);
    /* Bound aside and renamed, so that a client never finds a socket that does not listen yet. */
    if (bind(fd, (struct sockaddr *)&temporary, sizeof(temporary)) < 0)
        return -errno;
    if (chmod(name, mode) < 0 || listen(fd, 128) < 0 || rename(name, path) < 0) {
        r = -errno;
        unlink(name);
        return r;
    }
    return take_fd(&fd);
}

static int wait_for(int fd, short events, int timeout_milliseconds)
{
    struct pollfd p = {.fd = fd, .events = events};
    int r = poll(&p, 1, timeout_milliseconds);

    if (r < 0)
        return -errno;
    return r ? 0 : -ETIMEDOUT;
}

static long now_milliseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int seqpacket_connect(const char *path, int timeout_milliseconds, bool nonblocking)
{
    long deadline = now_milliseconds() + timeout_milliseconds;
    struct sockaddr_un addr;
    _cleanup_fd_ int fd = -1;
    int r = socket_address(path, &addr);

    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0)
        return -errno;
    if (!nonblocking) {
        struct timeval tv = {.tv_sec = timeout_milliseconds / 1000,
                             .tv_usec = timeout_milliseconds % 1000 * 1000};

        /* bounds connect() to a full backlog as well as later sends */
        if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
            return -errno;
    }
    while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN || now_milliseconds() >= deadline)
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
        /* the backlog is full: a non-blocking unix socket offers nothing to wait for */
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return take_fd(&fd);
}

int seqpacket_accept(int listener, pid_t *ret_pid)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    _cleanup_fd_ int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return -errno;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    if (cred.uid != 0)
        return -EPERM;
    if (ret_pid)
        *ret_pid = cred.pid;
    return take_fd(&fd);
}

int seqpacket_send(int fd, const void *data, size_t len, const int *fds, size_t fds_len)
{
    union {
        struct cmsghdr header;
        char buf[CMSG_SPACE(sizeof(int) * SEQPACKET_FDS_MAX)];
    } control;
    struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (fds_len > SEQPACKET_FDS_MAX)
        return -EINVAL;
    if (fds_len) {
        memset(&control, 0, sizeof(control));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int) * fds_len);
        memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * fds_len);
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fds_len);
    }
    do
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -EMSGSIZE;
}

void close_fds(int *fds, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

/* Takes the descriptors out of the control data; those beyond fds_max are closed. Returns how many were sent.
 */
static size_t take_rights(struct msghdr *msg, int *fds, size_t fds_max)
{
    size_t count = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (count < fds_max)
                fds[count] = fd;
            else
                close(fd);
            count++;
        }
    }
    return count;
}

ssize_t seqpacket_receive_short(int fd, void *buf, size_t size, int *fds, size_t fds_max, size_t *ret_fds_len,
                                bool *ret_short)
{
    union {
        struct cmsghdr header;
        char buf[CMSG_SPACE(sizeof(int) * SEQPACKET_FDS_MAX)];
    } control;
    struct iovec iov = {.iov_base = buf, .iov_len = size - 1};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    size_t count;
    ssize_t n;

    *ret_fds_len = 0;
    *ret_short = false;
    do
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    count = take_rights(&msg, fds, fds_max);
    /* The kernel leaves out those that it finds no number for, although there was room to tell of them. */
    if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == MSG_CTRUNC && count <= fds_max) {
        close_fds(fds, count);
        *ret_short = true;
        ((char *)buf)[n] = '\0';
        return n;
    }
    if (count > fds_max || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        close_fds(fds, count > fds_max ? fds_max : count);
        return -EMSGSIZE;
    }
    *ret_fds_len = count;
    ((char *)buf)[n] = '\0';
    return n;
}

ssize_t seqpacket_receive(int fd, void *buf, size_t size, int *fds, size_t fds_max, size_t *ret_fds_len)
{
    bool is_short;
    ssize_t n = seqpacket_receive_short(fd, buf, size, fds, fds_max, ret_fds_len, &is_short);

    return n >= 0 && is_short ? -EMFILE : n;
}

ssize_t seqpacket_receive_timeout(int fd, void *buf, size_t size, int *fds, size_t fds_max,
                                  size_t *ret_fds_len, int timeout_milliseconds)
{
    int r = wait_for(fd, POLLIN, timeout_milliseconds);

    *ret_fds_len = 0;
    if (r < 0)
        return r;
    return seqpacket_receive(fd, buf, size, fds, fds_max, ret_fds_len);
}
