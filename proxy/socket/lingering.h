/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An end never overtakes data. A socket whose connection has ended may still have bytes to take: of ours, and
 * of the kernel's, which a close with a reset, or with input that nobody has read, would destroy. It lives on
 * for them alone, and no longer than its reader takes some (linger_timeout).
 */
#ifndef PROXY_SOCKET_LINGERING_H
#define PROXY_SOCKET_LINGERING_H

#include "proxy/worker/worker.h"

struct lingering_request {
    struct worker_pod *wp;
    int fd;          /* taken; watched by nobody */
    uint8_t *unsent; /* taken; may be NULL */
    size_t unsent_offset, unsent_len;
    struct budget_account account; /* taken: of unsent */
    bool end;                      /* a FIN behind the bytes */
    bool reset;                    /* then a reset */
    uint64_t last_activity; /* loop_now() when bytes were moved last: a reset right behind them would be found
                             * first by an application that writes, and the bytes not at all */
    uint16_t delivery_port; /* given back after the reset; see socket_delivery_over() */
    /* Of a live plaintext connection: out of the pod's live connections once the socket is closed. */
    bool is_live;
    struct endpoint client;
    uint16_t port;
};

/* Mostly there is nothing to wait for, and the socket is closed at once. */
void lingering_begin(const struct lingering_request *request);

/* Those that hold at least so much end now, until the budget is no longer full. True: some did. */
bool lingering_abort(struct worker_pod *wp, size_t at_least, const struct budget *until);
/* What the one holds that holds most. */
size_t lingering_most(const struct worker_pod *wp);

/* The pod goes: what the sockets take now, and no more. */
void lingering_end_all(struct worker_pod *wp);

#endif
