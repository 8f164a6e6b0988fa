/* SPDX-License-Identifier: Apache-2.0 */
/* Entering other network namespaces. Only the calling thread moves. */
#ifndef LIB_NETNS_H
#define LIB_NETNS_H

#include <stdint.h>

#include "lib/cleanup.h"

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

/*
 * A visit: the calling thread moves into the namespace, and back at the end of the scope or by netns_leave().
 * Returns a descriptor of the namespace it was in, or -errno: then it has not moved. The end of a visit
 * cannot fail: a thread that cannot return would do its next work in a pod, so the program ends. errno stays.
 *     _cleanup_netns_ int home = netns_visit(netns_fd);
 */
int netns_visit(int fd);
/* Closes *home and sets it to -1; nothing if it is negative. */
void netns_leave(int *home);
#define _cleanup_netns_ cleanup(netns_leave)

/* The kernel's cookie of the namespace: unique until the next boot, never used again. 0 or -errno. A
 * visit. */
int netns_cookie(int fd, uint64_t *ret);
/* The inode number, which `ip netns` and bpftool show. It is used again once the namespace is gone. 0
 * or -errno. */
int netns_inode(int fd, uint64_t *ret);

/* The namespace that a socket belongs to (SO_NETNS_COOKIE). 0 or -errno. */
int socket_netns_cookie(int fd, uint64_t *ret);
/* SO_COOKIE: unique until the next boot. 0 or -errno. */
int socket_cookie(int fd, uint64_t *ret);

#endif
