/* SPDX-License-Identifier: Apache-2.0 */
/* What a SOCK_SEQPACKET peer cannot take yet: whole messages with duplicates of their descriptors, in
 * order. */
#ifndef LIB_OUTBOX_H
#define LIB_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/list.h"

#define OUTBOX_MAX 16384 /* messages; a peer that lets so many pile up does not read any more */

/* Zeroed is not enough: outbox_init(). */
struct outbox {
    struct list queue;
    size_t len; /* messages that wait */
    bool wipes; /* there are secrets in them: they are overwritten before their memory is freed */
};

/* Makes it empty, whatever it was. */
void outbox_init(struct outbox *outbox);
/* Drops what waits and closes its descriptors. */
void outbox_clear(struct outbox *outbox);
/* What waits in from waits in to, which becomes as from was; from is empty then. */
void outbox_move(struct outbox *to, struct outbox *from);
/* Whether nothing waits. */
static inline bool outbox_empty(const struct outbox *outbox)
{
    return !outbox->len;
}

/* Takes text (from malloc()), also on failure. Sends it at once if nothing waits and the socket takes
 * it: 0. Else keeps it: 1, and the caller waits for EPOLLOUT. Or -errno, -ENOBUFS if OUTBOX_MAX wait.
 * Descriptors stay with the caller. */
int outbox_send(struct outbox *outbox, int socket, char *text, size_t len, const int *fds, size_t fds_len);
/* Sends what waits. 0 if nothing is left, -EAGAIN: the rest waits for EPOLLOUT, or -errno of the
 * socket. */
int outbox_flush(struct outbox *outbox, int socket);

#endif
