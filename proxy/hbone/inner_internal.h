/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of struct inner. A worker's own thread. */
#ifndef PROXY_HBONE_INNER_INTERNAL_H
#define PROXY_HBONE_INNER_INTERNAL_H

#include "proxy/hbone/inner.h"

/* Bytes on their way between the two tunnels. */
struct inner_queue {
    uint8_t *data;
    size_t len, offset, size; /* len bytes from offset on */
};

/* What is between an inner tunnel and its carrier. Freed when both are gone. */
struct inner {
    struct tls_carrier transport; /* of the inner tunnel's TLS */
    struct list node;             /* in worker.inside */
    struct worker *worker;
    struct tunnel *tunnel; /* NULL: it has let go */
    struct stream *stream; /* NULL: it has ended */
    struct inner_queue in, out;
    bool begin;      /* the gateway has answered: the handshake may begin */
    bool stopped;    /* it reads no more */
    bool wants_room; /* it has more to say than out takes */
    bool ended;      /* the gateway's side has: behind what is in in */
    bool ending;     /* ours ends behind what is in out */
    bool failed;     /* reason and detail say why, and the carrier is gone or of no use */
    enum bruma_reason reason;
    char detail[200];
};

/* inner.c: between a tunnel and a stream, neither of which is there yet; whoever calls sets them, or frees it
 * by inner_free_if_over(). NULL without memory. */
struct inner *inner_new(struct worker *worker);
/* inner.c: frees it if both ends are gone. */
void inner_free_if_over(struct inner *inner);
/* inner.c: it has something to do at the end of the turn. */
void inner_wake(struct inner *inner);

#endif
