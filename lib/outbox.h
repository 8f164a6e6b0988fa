/* SPDX-License-Identifier: Apache-2.0 */
/* What a SOCK_SEQPACKET peer cannot take yet: whole messages with duplicates of their descriptors, in order.
 */
#ifndef LIB_OUTBOX_H
#define LIB_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/list.h"

#define OUTBOX_MAX 16384 /* messages; a peer that lets so many pile up does not read any more */

struct outbox {
    struct list queue;
    size_t len;
};

void outbox_init(struct outbox *outbox);
void outbox_clear(struct outbox *outbox);
static inline bool outbox_empty(const struct outbox *outbox)
{
    return !outbox->len;
}

/* Takes text (from malloc). Sends it at once if nothing waits and the socket takes it: 0. Else keeps it: 1,
 * and the caller waits for EPOLLOUT. Or -errno, -ENOBUFS if too many wait. Descriptors stay with the caller.
 */
int outbox_send(struct outbox *outbox, int socket, char *text, size_t len, const int *fds, size_t fds_len);
/* 0 if nothing is left, -EAGAIN, or -errno. */
int outbox_flush(struct outbox *outbox, int socket);

#endif
