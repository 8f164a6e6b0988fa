/* SPDX-License-Identifier: Apache-2.0 */
/* Whole datagrams with file descriptors over SOCK_SEQPACKET unix sockets (see bruma/protocol.h). No JSON
 * here, so that the statically linked plugin can use it too. */
#ifndef LIB_SEQPACKET_H
#define LIB_SEQPACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Listens at path; a stale socket file is replaced by rename. mode: of the socket file. A non-blocking
 * fd, -ENAMETOOLONG, or -errno. */
int seqpacket_listen(const char *path, mode_t mode);

/* Connects, waiting for at most timeout_milliseconds, which bounds each later send of a blocking fd
 * too. Returns the fd, -ETIMEDOUT if the server does not accept, or -errno. */
int seqpacket_connect(const char *path, int timeout_milliseconds, bool nonblocking);

/* Accepts one connection: a non-blocking fd; -EPERM (and closed) if the peer is not root, -EAGAIN if
 * none waits, or -errno. ret_pid may be NULL. */
int seqpacket_accept(int listener, pid_t *ret_pid);

#define SEQPACKET_FDS_MAX 253 /* descriptors beside one datagram: what the kernel takes */

/* Sends one datagram, all or nothing. 0, -EAGAIN, -EINVAL for more than SEQPACKET_FDS_MAX
 * descriptors, or -errno. The descriptors stay with the caller. */
int seqpacket_send(int fd, const void *data, size_t len, const int *fds, size_t fds_len);

/*
 * Receives one datagram into buf (NUL-terminated behind its last byte, so at most size - 1 bytes). Up to
 * fds_max descriptors are stored, close-on-exec, owned by the caller. Returns the length, 0 at the end of the
 * connection, -EAGAIN, -EMSGSIZE for a datagram or control data that did not fit (its descriptors are
 * closed), -EMFILE if this process had no room for its descriptors, or -errno.
 */
ssize_t seqpacket_receive(int fd, void *buf, size_t size, int *fds, size_t fds_max, size_t *ret_fds_len);

/* The same, but a message whose descriptors this process had no room for is received without them: *ret_short
 * is true then, and *ret_fds_len 0. */
ssize_t seqpacket_receive_short(int fd, void *buf, size_t size, int *fds, size_t fds_max, size_t *ret_fds_len,
                                bool *ret_short);

/* As seqpacket_receive(), waiting for at most timeout_milliseconds (-ETIMEDOUT). */
ssize_t seqpacket_receive_timeout(int fd, void *buf, size_t size, int *fds, size_t fds_max,
                                  size_t *ret_fds_len, int timeout_milliseconds);

/* Closes those that are not negative, and makes all of them -1. */
void close_fds(int *fds, size_t len);

#endif
