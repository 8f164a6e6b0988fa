/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of struct tls: the handshake, reading and writing. A worker's own thread. */
#ifndef PROXY_TLS_TLS_INTERNAL_H
#define PROXY_TLS_TLS_INTERNAL_H

#include <openssl/bio.h>

#include "proxy/tls/tls.h"

#define ALERT_CLOSE_NOTIFY 0

/* Reads tls->in and gathers; its data is the struct tls. Made once, never freed; NULL without memory. */
BIO_METHOD *tls_handshake_method(void);

/* Of a handshake of TLS 1.2 that is done: fills in both secrets as record_key_init() wants them, or leaves
 * them out. */
void tls12_take_secrets(struct tls *tls);

/* One recv() into the shared buffer, behind the rest of the last one. Returns what recv() does, with -errno
 * for errors. */
ssize_t tls_receive(struct tls *tls);
/* What was received and not looked at is nobody's any more. */
void tls_drop_input(struct tls *tls);

/* Sends what is gathered. 0: all gone; 1: some of it is pending; or -errno. */
int tls_send_gathered(struct tls *tls);

/* Notes down what OpenSSL says, unless something is noted already. Returns -EPROTO. */
int tls_fail(struct tls *tls);
/* The peer has broken the protocol. text: how. Returns -EPROTO. */
int tls_protocol_error(struct tls *tls, const char *text);

#endif
