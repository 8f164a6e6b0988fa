/* SPDX-License-Identifier: Apache-2.0 */
/* A SOCK_SEQPACKET unix socket that listens at a path and is watched by a loop. Apart from seqpacket.h, so
 * that the statically linked plugin needs no loop. */
#ifndef LIB_SEQPACKET_LISTENER_H
#define LIB_SEQPACKET_LISTENER_H

#include <sys/types.h>

#include "lib/loop.h"

/* Embedded in its owner's struct, which callbacks find by container_of(watch, ..., listener.watch). */
struct seqpacket_listener {
    struct loop *loop;
    struct loop_watch watch;
    char *path;
    ino_t inode; /* of the socket file: a successor may have replaced it */
};

/* As seqpacket_listen(); fn is called when a connection waits. The listener must be zeroed or closed before.
 * 0 or -errno, and nothing is left at path then. */
int seqpacket_listener_open(struct seqpacket_listener *listener, struct loop *loop, const char *path,
                            mode_t mode, loop_watch_fn fn);
/* Removes the socket file unless it is a successor's by now. */
void seqpacket_listener_close(struct seqpacket_listener *listener);

#endif
