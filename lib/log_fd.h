/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A descriptor for log lines that never waits for who reads there. stdout and stderr are shared with other
 * processes, so their file status flags are left alone: a pipe or terminal is opened once more
 * (/proc/self/fd) to have a non-blocking description of its own, a socket is written with MSG_DONTWAIT, and
 * what is neither, such as a pipe of another user, is asked with poll() before each write.
 */
#ifndef LIB_LOG_FD_H
#define LIB_LOG_FD_H

#include <stddef.h>
#include <sys/types.h>

#define LOG_FD_LINE 4096 /* PIPE_BUF: writes of whole lines of at most so many bytes do not mix */

enum log_fd_kind {
    LOG_FD_FILE,   /* a regular file: has no reader to wait for */
    LOG_FD_OPENED, /* our own non-blocking description of it */
    LOG_FD_SOCKET,
    LOG_FD_POLLED,
};

struct log_fd {
    int fd; /* -1: closed */
    enum log_fd_kind kind;
};

/* fd stays the caller's. 0 or -errno. */
int log_fd_open(int fd, struct log_fd *ret);
/* Closes our own descriptor; harmless where it is closed. */
void log_fd_close(struct log_fd *out);
/* How many bytes were written, or -errno; -EAGAIN: the reader is behind. Any thread. */
ssize_t log_fd_write(const struct log_fd *out, const char *bytes, size_t len);
/* Bytes of whole lines out of len, as many as fit one write. */
size_t log_fd_chunk(const struct log_fd *out, const char *bytes, size_t len);

#endif
