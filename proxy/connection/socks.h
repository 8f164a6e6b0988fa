/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SOCKS5 (RFC 1928, contract section 12): an application says where to, by address or by name, on a
 * connection that needs no capture. From there on it is as if it had been captured. Answered once the other
 * side is there. Worker's own thread.
 */
#ifndef PROXY_CONNECTION_SOCKS_H
#define PROXY_CONNECTION_SOCKS_H

#include "proxy/worker/worker.h"

/* Takes fd. */
void socks_accept(struct worker_pod *wp, int fd, const struct endpoint *client);
/* The pod goes: those that have not said where to are cut off. */
void socks_end_all(struct worker_pod *wp);

#endif
