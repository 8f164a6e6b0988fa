/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/tls.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/wall.h"
#include "proxy/tls/crl.h"
#include "proxy/tls/verify.h"

#define CHAIN_DEPTH        6 /* certificates between a peer's own and a root */
#define ALERT_CLOSE_NOTIFY 0

static int flush(struct tls *tls);

/* ---- the handshake: a BIO that reads the turn's received bytes and gathers what is to be sent ---- */

static int bio_read(BIO *bio, char *out, size_t size, size_t *ret)
{
    struct tls *tls = BIO_get_data(bio);
    size_t n = tls->in_len < size ? tls->in_len : size;

    BIO_clear_retry_flags(bio);
    if (!n) {
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(out, tls->in, n);
    tls->in += n;
    tls->in_len -= n;
    *ret = n;
    return 1;
}

static int bio_write(BIO *bio, const char *data, size_t len, size_t *ret)
{
    struct tls *tls = BIO_get_data(bio);
    struct shared_buffer *out = &tls->buffers->gathered;

    BIO_clear_retry_flags(bio);
    shared_buffer_take(out, tls);
    if (len > out->size - out->len) {
        /* Only a handshake message or an alert of a blocked connection comes here: writers of data ask
         * tls_blocked(). */
        if (flush(tls) < 0 || tls_blocked(tls) || len > out->size)
            return 0;
        shared_buffer_take(out, tls);
    }
    memcpy(out->data + out->len, data, len);
    out->len += len;
    *ret = len;
    return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP;
}

static BIO_METHOD *turn_method;

static void make_method(void)
{
    turn_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "turn");
    if (!turn_method)
        return;
    BIO_meth_set_read_ex(turn_method, bio_read);
    BIO_meth_set_write_ex(turn_method, bio_write);
    BIO_meth_set_ctrl(turn_method, bio_ctrl);
}

static BIO_METHOD *method(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_method);
    return turn_method;
}

int tls_buffers_init(struct tls_buffers *buffers, size_t size)
{
    memset(buffers, 0, sizeof(*buffers));
    buffers->key_updates = TLS_KEY_UPDATES;
    buffers->verified = verified_cache_new();
    if (shared_buffer_init(&buffers->received, "received", size) < 0 ||
        shared_buffer_init(&buffers->gathered, "gathered", size) < 0 || !buffers->verified) {
        tls_buffers_destroy(buffers);
        return -ENOMEM;
    }
    return 0;
}

void tls_buffers_destroy(struct tls_buffers *buffers)
{
    shared_buffer_destroy(&buffers->received);
    shared_buffer_destroy(&buffers->gathered);
    verified_cache_free(buffers->verified);
    crl_unref(buffers->revoked);
    memset(buffers, 0, sizeof(*buffers));
}

int tls_init(struct tls *tls, struct tls_context *context, struct tls_buffers *buffers, int fd, bool server)
{
    BIO *bio;

    memset(tls, 0, sizeof(*tls));
    tls->fd = fd;
    tls->server = server;
    tls->buffers = buffers;
    tls->ssl = SSL_new(server ? context->server : context->client);
    bio = tls->ssl ? BIO_new(method()) : NULL;
    if (!bio) {
        SSL_free(tls->ssl);
        tls->ssl = NULL;
        return -ENOMEM;
    }
    if (buffers->max_certificate_list)
        SSL_set_max_cert_list(tls->ssl, (long)buffers->max_certificate_list);
    SSL_set_verify_depth(tls->ssl, CHAIN_DEPTH);
    tls->context = tls_context_ref(context);
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio);
    SSL_set_app_data(tls->ssl, tls);
    if (server)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    return 0;
}

/* What was received and not looked at is nobody's any more. */
static void drop_input(struct tls *tls)
{
    tls->in_len = 0;
    shared_buffer_leave(&tls->buffers->received, tls);
}

void tls_destroy(struct tls *tls)
{
    if (tls->buffers) {
        drop_input(tls);
        shared_buffer_leave(&tls->buffers->gathered, tls);
    }
    SSL_free(tls->ssl);
    tls_context_unref(tls->context);
    record_key_clear(&tls->seal);
    record_key_clear(&tls->open);
    OPENSSL_cleanse(tls->secrets, sizeof(tls->secrets));
    sk_X509_pop_free(tls->peer_chain, X509_free);
    free(tls->partial);
    free(tls->pending);
    budget_give_all(&tls->account);
    tls->peer_chain = NULL;
    tls->ssl = NULL;
    tls->context = NULL;
    tls->partial = tls->pending = NULL;
}

bool tls_peer_revoked(const struct tls *tls)
{
    return tls->peer_chain && tls->buffers->revoked && crl_revokes(tls->buffers->revoked, tls->peer_chain);
}

bool tls_peer_expired(const struct tls *tls)
{
    return wall_seconds() >= tls->peer_until;
}

int64_t tls_peer_time_left(const struct tls *tls)
{
    int64_t now = wall_milliseconds();

    return tls->peer_until > INT64_MAX / 1000 ? INT64_MAX : tls->peer_until * 1000 - now;
}

static int fail(struct tls *tls)
{
    unsigned long e = ERR_peek_last_error();
    const char *text = e ? ERR_reason_error_string(e) : NULL;

    if (!tls->reason)
        tls->reason = tls->established ? BRUMA_REASON_HTTP2_ERROR : BRUMA_REASON_TLS_HANDSHAKE_FAILED;
    if (!tls->error[0])
        snprintf(tls->error, sizeof(tls->error), "TLS: %s", text ? text : "the peer sent no valid record");
    ERR_clear_error();
    return -EPROTO;
}

/* One recv() into the shared buffer, behind the rest of the last one. Returns what recv() does, with -errno
 * for errors. */
static ssize_t receive(struct tls *tls)
{
    struct shared_buffer *b = &tls->buffers->received;
    size_t had = tls->partial_len;
    ssize_t n;

    shared_buffer_take(b, tls);
    if (had)
        memcpy(b->data, tls->partial, had);
    do
        n = recv(tls->fd, b->data + had, b->size - had, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        n = -errno;
        drop_input(tls);
        return n;
    }
    free(tls->partial);
    tls->partial = NULL;
    tls->partial_len = 0;
    tls->in = b->data;
    tls->in_len = had + (size_t)n;
    return n;
}

/* Two secrets are all that is needed from OpenSSL; the callback sees every secret of the handshake by its
 * name in the key log format. */
void tls_take_secret(const SSL *ssl, const char *line)
{
    static const char *const labels[2] = {"CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 "};
    struct tls *tls = SSL_get_app_data(ssl);

    for (int i = 0; i < 2; i++) {
        const char *hex;
        long len = 0;
        unsigned char *raw;

        if (strncmp(line, labels[i], strlen(labels[i])) != 0)
            continue;
        hex = strrchr(line, ' ');
        raw = hex ? OPENSSL_hexstr2buf(hex + 1, &len) : NULL;
        if (raw && len <= RECORD_SECRET_MAX) {
            memcpy(tls->secrets[i], raw, (size_t)len);
            tls->secret_len = (size_t)len;
            tls->have_secret[i] = true;
        }
        OPENSSL_clear_free(raw, (size_t)len);
    }
}

/* From here on OpenSSL is done with this connection. */
static int take_over(struct tls *tls)
{
    const char *suite = SSL_get_cipher_name(tls->ssl);
    int seals = tls->server ? 1 : 0, r = -EPROTO;

    if (tls->have_secret[0] && tls->have_secret[1])
        r = record_key_init(&tls->seal, suite, tls->secrets[seals], tls->secret_len, true);
    if (r == 0)
        r = record_key_init(&tls->open, suite, tls->secrets[1 - seals], tls->secret_len, false);
    OPENSSL_cleanse(tls->secrets, sizeof(tls->secrets));
    if (r < 0) {
        tls->reason = BRUMA_REASON_INTERNAL;
        snprintf(tls->error, sizeof(tls->error), "TLS: no keys for suite %.60s", suite);
        return -EPROTO;
    }
    SSL_free(tls->ssl);
    tls->ssl = NULL;
    tls->established = true;
    return 1;
}

int tls_handshake(struct tls *tls)
{
    ssize_t n = receive(tls);
    int r;

    if (n < 0 && n != -EAGAIN)
        return (int)n;
    if (n == 0) {
        drop_input(tls);
        tls->reason = BRUMA_REASON_TLS_HANDSHAKE_FAILED;
        snprintf(tls->error, sizeof(tls->error), "TLS: the peer closed during the handshake");
        return -EPROTO;
    }
    ERR_clear_error();
    r = SSL_do_handshake(tls->ssl);
    if (!tls->in_len)
        drop_input(tls);
    if (r == 1) {
        n = flush(tls);
        return n < 0 ? (int)n : take_over(tls);
    }
    if (SSL_get_error(tls->ssl, r) != SSL_ERROR_WANT_READ) {
        r = fail(tls);
        flush(tls); /* the alert that tells the peer why */
        drop_input(tls);
        return r;
    }
    n = flush(tls);
    return n < 0 ? (int)n : 0;
}

/* Gathers one record. */
static int put_record(struct tls *tls, enum record_type type, const uint8_t *data, size_t len)
{
    struct shared_buffer *out = &tls->buffers->gathered;
    long n;

    shared_buffer_take(out, tls);
    if (out->size - out->len < len + RECORD_OVERHEAD) {
        int r = flush(tls);

        if (r < 0)
            return r;
        shared_buffer_take(out, tls);
    }
    n = record_seal(&tls->seal, type, data, len, out->data + out->len);
    if (n < 0)
        return fail(tls);
    out->len += (size_t)n;
    return 0;
}

static int update_own_key(struct tls *tls)
{
    static const uint8_t message[] = {24, 0, 0, 1, 0}; /* KeyUpdate(update_not_requested) */
    int r;

    tls->answer_owed = tls->asked_again = false;
    r = put_record(tls, RECORD_HANDSHAKE, message, sizeof(message));
    return r < 0 ? r : record_key_update(&tls->seal);
}

static int protocol_error(struct tls *tls, const char *text)
{
    tls->reason = BRUMA_REASON_HTTP2_ERROR;
    snprintf(tls->error, sizeof(tls->error), "TLS: %s", text);
    return -EPROTO;
}

/*
 * Reading owes an answer at most, and never writes it: the shared buffer may only be filled by who will flush
 * it. One answer is enough for all that was asked meanwhile (RFC 8446 section 4.6.3).
 */
static int take_messages(struct tls *tls, const uint8_t *data, size_t len)
{
    enum tls_message follows;
    const char *error;
    bool flood;

    if (tls_messages_take(&tls->messages, data, len, !tls->server, tls->buffers->key_updates, &follows,
                          &error, &flood) < 0) {
        protocol_error(tls, error);
        if (flood)
            tls->reason = BRUMA_REASON_KEY_UPDATE_FLOOD;
        return -EPROTO;
    }
    if (follows == TLS_MESSAGE_NONE)
        return 0;
    if (record_key_update(&tls->open) < 0)
        return protocol_error(tls, "no new keys");
    if (follows == TLS_MESSAGE_KEYS_ASKED) {
        tls->asked_again = tls->answer_owed;
        tls->answer_owed = true;
    }
    return 0;
}

/* One record out of tls->in, whose whole body is there. Returns bytes of data (may be 0), or an error. */
static ssize_t take_record(struct tls *tls, size_t body, uint8_t *out)
{
    uint8_t type;
    long n = record_open(&tls->open, tls->in, body, out, &type);

    if (n < 0)
        return protocol_error(tls, "a record is not authentic");
    tls->in += RECORD_HEADER + body;
    tls->in_len -= RECORD_HEADER + body;
    if (type != RECORD_HANDSHAKE && tls_messages_in_pieces(&tls->messages))
        return protocol_error(tls, "another record between the pieces of a handshake message");
    switch (type) {
    case RECORD_DATA:
        tls_messages_data(&tls->messages, (size_t)n);
        return n;
    case RECORD_HANDSHAKE:
        return take_messages(tls, out, (size_t)n);
    case RECORD_ALERT:
        if (n == 2 && out[1] == ALERT_CLOSE_NOTIFY) {
            tls->peer_closed = true;
            return 0;
        }
        if (n == 2) {
            char text[80];

            snprintf(text, sizeof(text), "the peer's alert: %s", SSL_alert_desc_string_long(out[1]));
            return protocol_error(tls, text);
        }
        return protocol_error(tls, "a malformed alert");
    default:
        return protocol_error(tls, "a record of unknown type");
    }
}

/* The beginning of a record waits for its rest outside the shared buffer. */
static int set_aside(struct tls *tls)
{
    if (tls->in_len) {
        tls->partial = malloc(tls->in_len);
        if (!tls->partial)
            return -ENOMEM;
        memcpy(tls->partial, tls->in, tls->in_len);
        tls->partial_len = tls->in_len;
    }
    drop_input(tls);
    return 0;
}

/* Length of the next record's body, 0 if it is not all there, -EPROTO. */
static long next_body(struct tls *tls)
{
    size_t body;

    if (tls->in_len < RECORD_HEADER)
        return 0;
    body = (size_t)tls->in[3] << 8 | tls->in[4];
    /* a change of cipher spec may come only before the handshake is done */
    if (tls->in[0] != RECORD_DATA || body > RECORD_CIPHER_MAX || body <= RECORD_TAG)
        return protocol_error(tls, "a malformed record");
    return tls->in_len - RECORD_HEADER >= body ? (long)body : 0;
}

ssize_t tls_read(struct tls *tls, uint8_t *buf, size_t size, bool *ret_more)
{
    size_t total = 0, wanted = tls->buffers->received.size - tls->partial_len;
    bool ended = false;
    int r;

    *ret_more = false;
    if (!tls->in_len && !tls->peer_closed) {
        ssize_t n = receive(tls);

        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return n;
        ended = n == 0;
        *ret_more = (size_t)n == wanted;
    }
    while (!tls->peer_closed) {
        long body = next_body(tls);
        ssize_t n;

        if (body < 0) {
            drop_input(tls);
            return body;
        }
        if (!body)
            break;
        /* the plaintext, its type and padding are decrypted in place, so a whole body needs room */
        if ((size_t)body > size - total) {
            *ret_more = true;
            return (ssize_t)total;
        }
        n = take_record(tls, (size_t)body, buf + total);
        if (n < 0) {
            drop_input(tls);
            return n;
        }
        total += (size_t)n;
    }
    if (tls->peer_closed)
        tls->in_len = 0;
    r = set_aside(tls);
    if (r < 0)
        return r;
    if (!total && (ended || tls->peer_closed))
        return -EPIPE;
    if (ended || tls->peer_closed)
        *ret_more = true; /* the end is told by the next call */
    return (ssize_t)total;
}

int tls_write(struct tls *tls, const uint8_t *data, size_t len)
{
    if (tls->answer_owed && update_own_key(tls) < 0)
        return -EPROTO;
    while (len) {
        size_t part = len < RECORD_PLAIN_MAX ? len : RECORD_PLAIN_MAX;
        int r = put_record(tls, RECORD_DATA, data, part);

        if (r < 0)
            return r;
        data += part;
        len -= part;
    }
    return record_key_worn(&tls->seal) ? update_own_key(tls) : 0;
}

/* Keeps what the socket did not take. */
static int keep(struct tls *tls, const uint8_t *data, size_t len)
{
    size_t held = tls->pending_len - tls->pending_offset, before = tls->account.held;
    uint8_t *grown;
    int r = budget_take(&tls->account, held + len);

    if (r < 0)
        return r;
    grown = malloc(held + len);
    if (!grown)
        return -ENOMEM; /* the connection ends of it, and gives back all */
    budget_give(&tls->account, before);
    if (tls->pending && held)
        memcpy(grown, tls->pending + tls->pending_offset, held);
    memcpy(grown + held, data, len);
    free(tls->pending);
    tls->pending = grown;
    tls->pending_len = held + len;
    tls->pending_offset = 0;
    return 0;
}

/* Sends len bytes; returns how many the socket took, or -errno. */
static ssize_t send_all(int fd, const uint8_t *data, size_t len)
{
    size_t sent = 0;

    while (sent < len) {
        ssize_t n = send(fd, data + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? (ssize_t)sent : -errno;
        sent += (size_t)n;
    }
    return (ssize_t)sent;
}

/* Sends len bytes behind what is pending. As tls_flush(). */
static int send_or_keep(struct tls *tls, const uint8_t *data, size_t len)
{
    ssize_t n;
    int r;

    if (tls->pending) {
        n = send_all(tls->fd, tls->pending + tls->pending_offset, tls->pending_len - tls->pending_offset);
        if (n < 0)
            return (int)n;
        tls->pending_offset += (size_t)n;
        if (tls->pending_offset < tls->pending_len) {
            r = len ? keep(tls, data, len) : 0;
            return r < 0 ? r : 1;
        }
        free(tls->pending);
        budget_give_all(&tls->account);
        tls->pending = NULL;
        tls->pending_len = tls->pending_offset = 0;
    }
    if (!len)
        return 0;
    n = send_all(tls->fd, data, len);
    if (n < 0)
        return (int)n;
    if ((size_t)n == len)
        return 0;
    r = keep(tls, data + n, len - (size_t)n);
    return r < 0 ? r : 1;
}

static int flush(struct tls *tls)
{
    struct shared_buffer *out = &tls->buffers->gathered;
    int r;

    shared_buffer_take(out, tls);
    r = send_or_keep(tls, out->data, out->len);
    shared_buffer_leave(out, tls);
    return r;
}

int tls_flush(struct tls *tls)
{
    if (tls->answer_owed && !tls_blocked(tls) && update_own_key(tls) < 0)
        return -EPROTO;
    return flush(tls);
}

void tls_shutdown(struct tls *tls)
{
    static const uint8_t close_notify[] = {1, ALERT_CLOSE_NOTIFY};

    if (tls->established && put_record(tls, RECORD_ALERT, close_notify, sizeof(close_notify)) == 0)
        flush(tls);
    shared_buffer_leave(&tls->buffers->gathered, tls);
}

uint8_t *tls_take_pending(struct tls *tls, size_t *ret_offset, size_t *ret_len)
{
    uint8_t *pending = tls->pending;

    *ret_offset = tls->pending_offset;
    *ret_len = tls->pending_len - tls->pending_offset;
    tls->pending = NULL;
    tls->pending_len = tls->pending_offset = 0;
    return pending;
}
