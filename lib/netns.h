/* SPDX-License-Identifier: Apache-2.0 */
/* Entering other network namespaces. Only the calling thread moves. */
#ifndef LIB_NETNS_H
#define LIB_NETNS_H

#include <stdint.h>

/* Opens path and makes sure that it is a network namespace: fd, -EINVAL if it is something else, or -errno.
 */
int netns_open(const char *path);
/* 0, or -EINVAL if fd is no network namespace. */
int netns_check(int fd);

/* Opens the namespace the calling thread is in now. */
int netns_open_own(void);
int netns_enter(int fd);

/* The kernel's cookie of the namespace: unique until the next boot, never used again. */
int netns_cookie(int fd, uint64_t *ret);
/* The inode number, which `ip netns` and bpftool show. It is used again once the namespace is gone. */
int netns_inode(int fd, uint64_t *ret);

/* The namespace a socket belongs to (SO_NETNS_COOKIE). */
int socket_netns_cookie(int fd, uint64_t *ret);
/* SO_COOKIE. */
int socket_cookie(int fd, uint64_t *ret);

#endif
