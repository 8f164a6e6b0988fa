/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/log_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_CHUNK (64 * 1024)

/* poll() and write() of LOG_FD_POLLED belong together, for all threads of the process. */
static pthread_mutex_t polled_lock = PTHREAD_MUTEX_INITIALIZER;

static int open_again(int fd)
{
    char path[32];
    int r;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    r = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    return r < 0 ? -errno : r;
}

int log_fd_open(int fd, struct log_fd *ret)
{
    struct log_fd out = {.fd = -1};
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISREG(st.st_mode)) {
        out.kind = LOG_FD_FILE;
    } else if (S_ISSOCK(st.st_mode)) {
        out.kind = LOG_FD_SOCKET;
    } else {
        out.kind = LOG_FD_OPENED;
        out.fd = open_again(fd);
        if (out.fd < 0)
            out.kind = LOG_FD_POLLED;
    }
    if (out.fd < 0) {
        out.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (out.fd < 0)
            return -errno;
    }
    *ret = out;
    return 0;
}

void log_fd_close(struct log_fd *out)
{
    if (out->fd >= 0)
        close(out->fd);
    out->fd = -1;
}

static ssize_t write_polled(int fd, const char *bytes, size_t len)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    ssize_t n;

    pthread_mutex_lock(&polled_lock);
    n = poll(&p, 1, 0) == 1 ? write(fd, bytes, len) : (errno = EAGAIN, -1);
    pthread_mutex_unlock(&polled_lock);
    return n;
}

ssize_t log_fd_write(const struct log_fd *out, const char *bytes, size_t len)
{
    ssize_t n;

    if (out->kind == LOG_FD_SOCKET)
        n = send(out->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (out->kind == LOG_FD_POLLED)
        n = write_polled(out->fd, bytes, len);
    else
        n = write(out->fd, bytes, len);
    return n < 0 ? -errno : n;
}

size_t log_fd_chunk(const struct log_fd *out, const char *bytes, size_t len)
{
    size_t limit = out->kind == LOG_FD_FILE ? FILE_CHUNK : LOG_FD_LINE;
    const char *newline;

    if (len <= limit)
        return len;
    newline = memrchr(bytes, '\n', limit);
    return newline ? (size_t)(newline - bytes) + 1 : limit;
}
