/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/relay_side.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

void relay_side_free_unsent(struct budget_account *account, struct relay_side *side)
{
    free(side->unsent);
    side->unsent = NULL;
    budget_give(account, side->unsent_size);
    side->unsent_size = 0;
}

int relay_side_write(struct budget_account *account, struct relay_side *to, const uint8_t *data, size_t len)
{
    ssize_t n;
    int e;

    do
        n = send(to->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN)
        return -errno;
    if (n < 0)
        n = 0;
    if ((size_t)n == len)
        return 0;
    e = budget_take(account, len - (size_t)n);
    if (e < 0)
        return e;
    to->unsent = malloc(len - (size_t)n);
    if (!to->unsent)
        return -ENOMEM; /* the relay ends of it, and gives back all */
    memcpy(to->unsent, data + n, len - (size_t)n);
    to->unsent_len = to->unsent_size = len - (size_t)n;
    to->unsent_offset = 0;
    return 0;
}

int relay_side_write_unsent(struct budget_account *account, struct relay_side *to)
{
    while (to->unsent_len) {
        ssize_t n = send(to->fd, to->unsent + to->unsent_offset, to->unsent_len, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        to->unsent_offset += (size_t)n;
        to->unsent_len -= (size_t)n;
    }
    relay_side_free_unsent(account, to);
    return 0;
}
