/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of socket.h. A worker's own thread. */
#ifndef PROXY_SOCKET_SOCKET_INTERNAL_H
#define PROXY_SOCKET_SOCKET_INTERNAL_H

#include <errno.h>
#include <sys/socket.h>

#include "proxy/socket/socket.h"

/* The thread moves into the pod's network namespace, if it is not there. 0 or -errno. */
int socket_enter(struct worker *worker, struct pod *pod);
/* A TCP socket in the pod's namespace, non-blocking, with the pod's packet mark. -errno */
int socket_new(struct worker *worker, struct pod *pod, bool v4);
/* setsockopt() of an int. 0 or -errno. */
static inline int socket_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

/* As socket_dial(), of a socket that is ready for it. 0 or -errno. */
int socket_start_connect(int fd, const struct endpoint *target, bool *ret_connected);

/* The pod's program does not capture the socket. 0 or -errno. */
int socket_exempt(struct proxy *proxy, int fd);
/* A connection over lo to target is none of the pod's own. 0 or -errno. */
int socket_register_delivery(const struct pod *pod, int fd, const struct endpoint *target);

#endif
