/* SPDX-License-Identifier: Apache-2.0 */
/* One of the two sockets of a relay, and the bytes that it has not taken. A worker's own thread. */
#ifndef PROXY_CONNECTION_RELAY_SIDE_H
#define PROXY_CONNECTION_RELAY_SIDE_H

#include "lib/loop.h"
#include "proxy/memory/budget.h"

struct relay_side {
    struct loop_watch watch;
    int fd;
    bool ended;      /* nothing more comes from it: all was read */
    bool fin;        /* up to its FIN */
    bool hung_up;    /* all that will ever come from it is in its queue; no longer watched */
    bool reset;      /* by its other end: nothing more is written to it */
    bool shut;       /* FIN was sent to it */
    uint8_t *unsent; /* bytes for it that it did not take */
    size_t unsent_len, unsent_offset, unsent_size;
};

/* Writes; what the socket does not take is kept, on the account. There must be nothing unsent. 0, -ENOBUFS or
 * -ENOMEM: it cannot be kept, or another -errno: the side is gone. */
int relay_side_write(struct budget_account *account, struct relay_side *to, const uint8_t *data, size_t len);
/* What is unsent, as far as the socket takes it. 0, or -errno: the side is gone. */
int relay_side_write_unsent(struct budget_account *account, struct relay_side *to);
/* Forgets it. */
void relay_side_free_unsent(struct budget_account *account, struct relay_side *side);

#endif
