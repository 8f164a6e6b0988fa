/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handshakes between two node proxies of Bruma that go on from an earlier one: no certificates, no
 * signatures, and a new key exchange all the same. No ticket is sent: both ends derive a name and a secret
 * from the earlier handshake (RFC 8446 section 7.5), and keep them with what they have verified of each
 * other. The secret is then an external PSK (section 4.2.11) under that name. Both sides say in an extension
 * of their own that they do so; nobody else is offered anything.
 *
 * What holds for the one that was verified holds for the one that goes on from it only as long as it stands
 * on the same: see enum tls_refusal. Else the handshake is a full one.
 */
#ifndef PROXY_TLS_RESUMPTION_H
#define PROXY_TLS_RESUMPTION_H

#include <stdatomic.h>
#include <stdio.h>

#include "proxy/tls/session_store.h"
#include "proxy/tls/tls.h"

#define RESUMPTION_EXTENSION 0xffb2 /* of the range for private use; its content is RESUMPTION_VERSION */
#define RESUMPTION_VERSION   1
#define RESUMPTION_LABEL     "EXPORTER-bruma-resumption-1" /* gives SESSION_ID + SESSION_SECRET bytes */

/* Why a session that was there, or was asked for, is not gone on with. */
enum tls_refusal {
    TLS_REFUSAL_NONE,
    TLS_REFUSAL_UNKNOWN,         /* server: no such session, or not any more */
    TLS_REFUSAL_OWN_CERTIFICATE, /* it was another one, of whatever identity */
    TLS_REFUSAL_ROOTS,           /* another trust bundle */
    TLS_REFUSAL_LISTS,           /* other revocation lists */
    TLS_REFUSAL_EXPIRED,         /* the peer's certificate, or one that it stands on */
    TLS_REFUSAL_AGE,             /* the full handshake is too long ago */
    TLS_REFUSAL_IDENTITY,        /* client: somebody else is expected by now */
    TLS_REFUSAL_DECLINED,        /* client: the server wants a full handshake */
    TLS_REFUSALS
};

/* Of one role; read by scrapes. */
struct resumption_counts {
    atomic_ulong full, resumed, refused[TLS_REFUSALS];
};

/* One for the process: all workers share it. */
struct tls_resumption {
    struct session_store *sessions[2];  /* as client, as server; NULL: every handshake is a full one */
    int64_t seconds;                    /* after a full handshake */
    struct resumption_counts counts[2]; /* the same order */
};

/* most: sessions of each role; 0: none are kept. milliseconds: after a full handshake. 0 or -ENOMEM. */
int tls_resumption_init(struct tls_resumption *resumption, size_t most, unsigned long milliseconds);
/* Nobody uses it any more; harmless where all is zero. */
void tls_resumption_destroy(struct tls_resumption *resumption);
/* bruma_tls_handshakes and what belongs to it, in OpenMetrics text. Any thread. */
void tls_resumption_write_metrics(struct tls_resumption *resumption, FILE *out);

/* Sets up a context of either role. 0 or -ENOMEM. */
int tls_resumption_prepare(SSL_CTX *context, bool server);
/* OpenSSL is done with the handshake. What is known of the peer is taken over if it was resumed; and what may
 * be resumed later is kept. 0, or -EPROTO with tls->reason and tls->error: what it stands on is gone. */
int tls_resumption_done(struct tls *tls);

#endif
