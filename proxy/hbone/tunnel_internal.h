/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of struct tunnel. A worker's own thread. */
#ifndef PROXY_HBONE_TUNNEL_INTERNAL_H
#define PROXY_HBONE_TUNNEL_INTERNAL_H

#include "proxy/hbone/tunnel.h"

/* tunnel.c: a new one, of no socket and in no list; the caller's to free() until it is in one. wp may be NULL
 * for now. NULL without memory. */
struct tunnel *tunnel_new(struct worker_pod *wp, bool server);
/* tunnel.c: of a tunnel, as tunnel_accept_let_go(). Returns its socket, or -1. */
int tunnel_let_go(struct tunnel *tunnel, struct endpoint *ret_peer, struct endpoint *ret_arrival);
/* tunnel.c: what it goes through is connected. */
void tunnel_begin_handshake(struct tunnel *tunnel);
/* tunnel.c: what it goes through has bytes, or takes some (EPOLLIN, EPOLLOUT). */
void tunnel_on_event(struct tunnel *tunnel, uint32_t events);
/* tunnel.c: of tunnel.watch, calls tunnel_on_event(). */
void tunnel_watch_event(struct loop_watch *watch, uint32_t events);
/* tunnel.c: behind tunnel.busy++. A close that had to wait is done now. */
void tunnel_leave(struct tunnel *tunnel);

/* tunnel_send.c: all frames that are due, through TLS to the socket. As tls_flush(), or -EPROTO. */
int tunnel_fill(struct tunnel *tunnel);
/* tunnel_send.c: something happens to it, whether it stands still or not: then it does no longer, and whoever
 * wanted to move it hears that. */
void tunnel_go_on(struct tunnel *tunnel);
/* tunnel_send.c: closes it where everything is said, or the peer has broken the protocol. */
void tunnel_close_if_over(struct tunnel *tunnel);

/* tunnel_receive.c: the socket of an open tunnel has bytes. May close it. */
void tunnel_read(struct tunnel *tunnel);
/* tunnel_receive.c: the peer has gone, which a write has told: what it sent before is still there. */
void tunnel_read_rest(struct tunnel *tunnel);

/* tunnel_ping.c: sets the timer of an open tunnel: the next look, or the end of the peer's certificate. */
void tunnel_arm_ping(struct tunnel *tunnel);
/* tunnel_ping.c: that timer. */
void tunnel_look_at_peer(struct tunnel *tunnel);

#endif
