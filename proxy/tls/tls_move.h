/* SPDX-License-Identifier: Apache-2.0 */
/* A connection of TLS that goes on in another process: what of it travels (bruma/handover.h), on the worker's
 * own thread. Nothing of it stays in OpenSSL once the handshake is done. */
#ifndef PROXY_TLS_TLS_MOVE_H
#define PROXY_TLS_TLS_MOVE_H

#include "proxy/tls/tls.h"
#include "proxy/wire/wire.h"

/* Writes it as enum bruma_tls_field, at the end of a turn; it is left as it is. The writer must be secret. 0,
 * -EAGAIN: not in this state (no handshake, or its end was read), or -ENOMEM. */
int tls_move_write(const struct tls *tls, struct wire_writer *writer);

/* Makes one of it in place of tls_init() and the handshake; without a context, and with nobody expected. fd
 * and buffers stay the caller's, and fd is not touched. What the socket has not taken is counted in no
 * account until tls_move_count(). 0, and tls_destroy() is due later. Or *ret_why is a static text, and
 * -EBADMSG: malformed or incomplete, -EPROTONOSUPPORT: of a suite or with a field that is not known here,
 * -EKEYREVOKED: the peer's certificate was revoked, or lists are kept here and its chain did not come along,
 * -ENOMEM. */
int tls_move_read(struct tls *tls, struct tls_buffers *buffers, int fd, bool server, const uint8_t *data,
                  size_t len, const char **ret_why);
/* From here on it counts for the pod whose share this is. What the budget does not hold is held all the same:
 * it was before. */
void tls_move_count(struct tls *tls, struct budget_share *share);

#endif
