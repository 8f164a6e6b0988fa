/* SPDX-License-Identifier: Apache-2.0 */
/* What live connections have carried by now: asked of the kernel for each, by its addresses and its cookie
 * (sock_diag), in the pods' network namespaces. It costs a few microseconds a connection. */
#ifndef PROXY_FLOWS_SAMPLE_H
#define PROXY_FLOWS_SAMPLE_H

#include "proxy/flows/account.h"

struct tcp_sample {
    uint8_t state; /* of TCP, as the kernel numbers them */
    uint64_t bytes_acked, bytes_received;
};

/* Bytes of the pod that were acknowledged, and bytes for it, without SYN and FIN; ret_sent and
 * ret_received are always written.
 * inbound: the socket was accepted. */
void sample_bytes(const struct tcp_sample *sample, bool inbound, uint64_t *ret_sent, uint64_t *ret_received);

/* What is done between two batches of questions; data is fn's. */
struct sample_pause {
    /* Called on the reader's thread, which may be in a pod's network namespace. Connections may end. */
    void (*fn)(void *data);
    void *data;
};

/*
 * Tells the account of the progress of all its connections. The kernel and flows, the map of those that live
 * (descriptor), are asked for those that are not found; one that neither has, twice in a row, has ended
 * without a word: it is taken out. All that the events say must have been read before. The reader's thread,
 * which visits the pods' network namespaces meanwhile. pause: or NULL. 0, or -ENOMEM: nothing was asked.
 */
int sample_all(struct account *account, int flows, const struct sample_pause *pause);

/* fn is called on this thread for each entry of the map of flows before this returns: once or, while the map
 * changes, more than once. 0 or -errno, also after some. */
int sample_list(int flows, void (*fn)(void *data, uint64_t socket_cookie, const struct bruma_flow *flow),
                void *data);

#endif
