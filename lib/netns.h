/* SPDX-License-Identifier: Apache-2.0 */
/* Entering other network namespaces. Only the calling thread moves. */
#ifndef LIB_NETNS_H
#define LIB_NETNS_H

#include <stdint.h>

/* Opens path and makes sure that it is a network namespace: an fd, -EINVAL if it is something else, or
 * -errno. */
int netns_open(const char *path);
/* 0, or -EINVAL if fd is no network namespace. */
int netns_check(int fd);

/* An fd of the namespace that the calling thread is in now, or -errno. */
int netns_open_own(void);
/* Moves the calling thread to the namespace of fd, for good: who comes back keeps an fd of
 * netns_open_own(). 0 or -errno. */
int netns_enter(int fd);

/* The kernel's cookie of the namespace: unique until the next boot, never used again. 0 or -errno. The
 * calling thread goes there and back; a process that cannot come back aborts. */
int netns_cookie(int fd, uint64_t *ret);
/* The inode number, which `ip netns` and bpftool show. It is used again once the namespace is gone. 0
 * or -errno. */
int netns_inode(int fd, uint64_t *ret);

/* The namespace that a socket belongs to (SO_NETNS_COOKIE). 0 or -errno. */
int socket_netns_cookie(int fd, uint64_t *ret);
/* SO_COOKIE: unique until the next boot. 0 or -errno. */
int socket_cookie(int fd, uint64_t *ret);

#endif
