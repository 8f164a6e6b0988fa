/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP/2 session over a non-blocking socket, with or without TLS, on a loop: what both sides of gRPC
 * share. */
#ifndef LIB_RPC_H2_CONNECTION_H
#define LIB_RPC_H2_CONNECTION_H

#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <string.h>

#include "lib/loop.h"

/* Zeroed, then h2_connection_open(); the session is made by the owner. All of it, and both callbacks,
 * on the loop's thread. */
struct h2_connection {
    struct loop *loop;
    struct loop_watch watch;
    struct loop_timer timer; /* handshake limit; the owner's afterwards */
    SSL *ssl;                /* NULL: plaintext */
    bool connecting, handshaking, closed;
    nghttp2_session *session;
    uint8_t *out; /* what the socket did not take */
    size_t out_len, out_offset, out_size;
    uint64_t last_received; /* loop_now() */
    uint64_t received;      /* times that something came */
    bool secret;            /* set by the owner: the buffer for what comes is wiped each time */
    unsigned busy;          /* inside nghttp2 */
    size_t tls_debt;        /* what the peer has asked of TLS, in bytes of data that would make up for it */
    char error[160];
    /* Called once, when the connection is up: TLS is done. May be NULL. */
    void (*ready)(struct h2_connection *connection);
    /* The connection has ended by itself; error says why. The owner calls h2_connection_close(). Comes from
     * the loop, never from inside the functions below but h2_connection_fail(). */
    void (*down)(struct h2_connection *connection);
};

/* Takes fd and ssl (whose handshake has not begun) also when it fails: 0 or -errno, and
 * h2_connection_close() in either case. connecting: a TCP connect is under way. Connect and handshake
 * must be done within limit_milliseconds. */
int h2_connection_open(struct h2_connection *c, struct loop *loop, int fd, SSL *ssl, bool connecting,
                       unsigned limit_milliseconds);
/* Frees session and TLS and closes the socket; no callback follows. Harmless where it is closed. */
void h2_connection_close(struct h2_connection *c);
/* As if it had ended by itself. Inside callbacks of the session down() comes when they return. */
void h2_connection_fail(struct h2_connection *c, const char *why);

/* Sends what the session has to say. Call it after nghttp2_submit_*; harmless inside callbacks of the
 * session. */
void h2_connection_send(struct h2_connection *c);
/* How many bytes wait for the socket, beside what the session holds. */
size_t h2_connection_queued(const struct h2_connection *c);

/* Both texts must live until the frame was made. */
static inline nghttp2_nv h2_header(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)name,
                        .namelen = strlen(name),
                        .value = (uint8_t *)value,
                        .valuelen = strlen(value)};
}

#endif
