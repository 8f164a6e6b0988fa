/* SPDX-License-Identifier: Apache-2.0 */
/* Tunnels of one pod on one worker that can be shared (contract 3.7): same destination, same expected
 * identities, same certificate. */
#ifndef PROXY_HBONE_POOL_H
#define PROXY_HBONE_POOL_H

#include "proxy/hbone/tunnel.h"

/* The tunnel is one that streams may be given to, until it leaves worker_pod.clients. */
void pool_add(struct worker_pod *wp, struct tunnel *tunnel);

/* An open tunnel, or one that is being opened, with room for one more stream: the pool's. NULL: dial. */
struct tunnel *pool_find(struct worker_pod *wp, const struct endpoint *target, uint64_t expected_hash,
                         uint64_t context_serial);
/* The same of tunnels inside of a gateway's, each of which ends at one endpoint: the connections are spread
 * among as many. NULL: dial. */
struct tunnel *pool_find_spread(struct worker_pod *wp, const struct endpoint *target, uint64_t expected_hash,
                                uint64_t context_serial, unsigned spread);

#endif
