/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TLS layer of one tunnel over a non-blocking socket: OpenSSL does the handshake, record.c protects what
 * follows. Ciphertext of a whole loop turn is gathered and leaves in one send(); what the socket does not
 * take is kept, and nothing more should be written until it is gone. The caller owns fd and watches it.
 */
#ifndef PROXY_TLS_TLS_H
#define PROXY_TLS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bruma/reasons.h"
#include "proxy/memory/budget.h"
#include "proxy/state/state.h"
#include "proxy/tls/record.h"
#include "proxy/tls/shared_buffer.h"
#include "proxy/tls/tls_context.h"
#include "proxy/tls/tls_messages.h"

/* Buffers of a worker, shared by all its tunnels within a turn. */
struct tls_buffers {
    struct shared_buffer received; /* ciphertext as it comes from the socket; its len is not used */
    struct shared_buffer gathered; /* ciphertext that waits for the end of the turn's flush */
    unsigned max_certificate_list; /* bytes of certificates that a peer may send; 0: as OpenSSL has it */
    unsigned key_updates;          /* that a peer may send with no data between */
    struct verified_cache *verified;
    struct crl_set *revoked;                   /* referenced; NULL: no lists are configured */
    const struct trust_domains *trust_domains; /* one with the mesh's own; not owned; NULL: none */
    struct tls_resumption *resumption;         /* of all workers; not owned; NULL: nothing is resumed */
};

/* Whom a client expects at the other end; referenced by the owner of struct tls. */
struct tls_expected {
    const struct workload *upstream;
    const struct service *service;
};

/* What a connection goes through in place of a socket. */
struct tls_carrier {
    /* Called on the worker's own thread for up to size bytes of ciphertext: how many, 0 at the end, -EAGAIN:
     * none now, or another -errno. */
    ssize_t (*receive)(struct tls_carrier *carrier, uint8_t *buf, size_t size);
    /* Called on the worker's own thread with ciphertext to be sent: how many bytes it took, -EAGAIN: none
     * now, or another -errno. */
    ssize_t (*send)(struct tls_carrier *carrier, const uint8_t *data, size_t len);
};

struct tls {
    int fd;
    struct tls_carrier *carrier; /* the owner's, in place of fd; or NULL */
    SSL *ssl;                    /* NULL once the handshake is done */
    struct tls_context *context; /* referenced; NULL: it has come from another process */
    struct tls_buffers *buffers;
    bool server, established, peer_closed;
    bool have_secret[2];
    uint8_t
        secrets[2][RECORD_SECRET_MAX]; /* client's, server's traffic secret; cleared once the keys are made */
    size_t secret_len;
    struct record_key seal, open;
    struct tls_messages messages;
    bool answer_owed;  /* the peer wants new keys of us; sent with the next flush */
    bool asked_again;  /* ... and has said so again before it got any */
    const uint8_t *in; /* ciphertext to be read next, in buffers->received; valid within a turn */
    size_t in_len;
    uint8_t *partial; /* the beginning of a record whose rest has not come */
    size_t partial_len;
    uint8_t *pending; /* ciphertext that the socket did not take */
    size_t pending_len, pending_offset;
    struct budget_account account; /* of pending; its share is the owner's to set */
    struct tls_expected expected;
    uint64_t target;             /* client: a hash of which proxy it meets, the caller's to set; 0: none that
                                    anything could be resumed with */
    struct tls_session *session; /* owned; that this handshake may go on from */
    bool looked_up;              /* whether there is one */
    bool peer_resumes;           /* it has said that it resumes as we do */
    STACK_OF(X509) * peer_chain; /* as verified; kept only where lists are configured */
    uint64_t lists;              /* generation of those that it was looked up in; 0: none */
    int64_t peer_until;          /* wall seconds: the first end of a certificate of the peer's chain */
    char peer_identity[SPIFFE_MAX]; /* verified; "" before */
    enum bruma_reason reason;       /* why the handshake or the connection failed */
    char error[256];
};

/* Takes a reference on context; fd stays the caller's, buffers too. 0 or -ENOMEM. */
int tls_init(struct tls *tls, struct tls_context *context, struct tls_buffers *buffers, int fd, bool server);
/* Frees what it holds and gives its bytes back to the budget; sends nothing. */
void tls_destroy(struct tls *tls);

/* Goes on with the handshake: 1 done (call tls_read() at once: data may have come along), 0 wait for the
 * socket, -EPROTO (tls->reason and tls->error say why), or -errno of the socket. */
int tls_handshake(struct tls *tls);

/* Whether anything of the peer's handshake has been read. */
bool tls_has_read(const struct tls *tls);

/* Receives at most once and decrypts into buf, which should hold some records. Returns bytes (> 0), 0 if
 * there is nothing now, -EPIPE at the peer's end, -EPROTO (tls->reason and tls->error say why) or -errno.
 * *ret_more: there may be more: call again, at once where tls_holds_input(). Never writes: see
 * tls_wants_flush(). */
ssize_t tls_read(struct tls *tls, uint8_t *buf, size_t size, bool *ret_more);

/* Whether tls_read() has something to do without waiting for the socket. */
static inline bool tls_holds_input(const struct tls *tls)
{
    /* of an end that has been read the socket will not tell again either */
    return tls->in_len != 0 || tls->peer_closed;
}

/* Encrypts and gathers: the shared buffer is this connection's until tls_flush(), tls_shutdown() or
 * tls_destroy(), one of which must follow before another connection writes. 0, -EPROTO or -errno. */
int tls_write(struct tls *tls, const uint8_t *data, size_t len);
/* Sends what is gathered. 0: all gone. 1: the socket is full, tls_blocked() until a later tls_flush() returns
 * 0. Or -errno. */
int tls_flush(struct tls *tls);

/* Whether ciphertext waits for the socket to take more. */
static inline bool tls_blocked(const struct tls *tls)
{
    return tls->pending != NULL;
}

/* Reading has left something to be sent: call tls_flush() in this turn (or when the socket takes more
 * again). */
static inline bool tls_wants_flush(const struct tls *tls)
{
    return tls->answer_owed;
}
/* The peer asks for answers and does not take those that it has: read no more until it does. */
static inline bool tls_unanswerable(const struct tls *tls)
{
    return tls->asked_again && tls_blocked(tls);
}

/* Whether keys that cannot be renewed, those of TLS 1.2, have protected as many records as they should, sent
 * or received: what is begun now belongs on another connection. This one goes on. */
bool tls_keys_worn(const struct tls *tls);

/* Whether the peer's certificate has been revoked since the handshake. */
bool tls_peer_revoked(const struct tls *tls);
/* Whether it, or one that it stands on, is out of date by now. Only once the handshake is done. */
bool tls_peer_expired(const struct tls *tls);
/* Milliseconds until then, by the wall clock as it goes now; 0 or less: it is. */
int64_t tls_peer_time_left(const struct tls *tls);
/* Whether no roots of the context are good for the trust domain. */
bool tls_is_stranger(const struct tls_context *context, const struct trust_domains *aliases,
                     const struct spiffe *peer);
/* Whether the peer would be verified by the same roots with that context as with its own. */
bool tls_peer_trusted(const struct tls *tls, const struct tls_context *now);

/*
 * Whether a handshake between two certificates that this process holds would be a success for both: each
 * stands on the other's roots, which are the same; neither is revoked; the trust domain is the server's; and
 * the server is whom the client expects. That they are good by the clock the caller has seen. A worker's own
 * thread.
 */
bool tls_vouches(const struct tls_buffers *buffers, const struct tls_context *client,
                 const struct tls_context *server, const struct tls_expected *expected);
/* Whether it is revoked by now, or nobody can tell. A worker's own thread; context has a chain. */
bool tls_context_revoked(const struct tls_buffers *buffers, const struct tls_context *context);

/* Sends close_notify, behind what the socket has not taken yet. */
void tls_shutdown(struct tls *tls);
/* Gives away what the socket did not take: the caller's to free, *ret_len bytes from *ret_offset on. NULL:
 * nothing, and *ret_len is 0. Its account stays behind, and is for the caller to move. */
uint8_t *tls_take_pending(struct tls *tls, size_t *ret_offset, size_t *ret_len);

/* For SSL_CTX_set_keylog_callback() of both contexts. */
void tls_take_secret(const SSL *ssl, const char *line);

/* Both buffers of size bytes each. 0 or -ENOMEM. */
int tls_buffers_init(struct tls_buffers *buffers, size_t size);
/* Frees them, and gives revoked back; harmless where all is zero. */
void tls_buffers_destroy(struct tls_buffers *buffers);

#endif
