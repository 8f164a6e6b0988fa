/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proxy/verify.h"

/* Ciphertext of one record beyond its plaintext: header, content type, tag; rounded up. */
#define RECORD_OVERHEAD 64
#define RECORD_PLAIN    16384

/* ---- a BIO that reads the turn's received bytes and gathers what is to be sent ---- */

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
    struct tls_buffers *b = tls->buffers;

    BIO_clear_retry_flags(bio);
    if (len > b->size - b->gathered_len && (tls_flush(tls) < 0 || tls_blocked(tls) || len > b->size)) {
        /* Only a handshake message or an alert of a blocked connection comes here: writers of data ask
         * tls_blocked(). */
        return 0;
    }
    memcpy(b->gathered + b->gathered_len, data, len);
    b->gathered_len += len;
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
    buffers->size = size;
    buffers->gathered_len = 0;
    buffers->received = malloc(size);
    buffers->gathered = malloc(size);
    buffers->verified = verified_cache_new();
    if (!buffers->received || !buffers->gathered || !buffers->verified) {
        tls_buffers_destroy(buffers);
        return -ENOMEM;
    }
    return 0;
}

void tls_buffers_destroy(struct tls_buffers *buffers)
{
    free(buffers->received);
    free(buffers->gathered);
    verified_cache_free(buffers->verified);
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

void tls_destroy(struct tls *tls)
{
    SSL_free(tls->ssl);
    tls_context_unref(tls->context);
    free(tls->pending);
    tls->ssl = NULL;
    tls->context = NULL;
    tls->pending = NULL;
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

/* One recv() into the shared buffer. Returns what recv() does, with -errno for errors. */
static ssize_t receive(struct tls *tls)
{
    ssize_t n;

    do
        n = recv(tls->fd, tls->buffers->received, tls->buffers->size, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    tls->in = tls->buffers->received;
    tls->in_len = (size_t)n;
    return n;
}

int tls_handshake(struct tls *tls)
{
    ssize_t n = receive(tls);
    int r;

    if (n < 0 && n != -EAGAIN)
        return (int)n;
    if (n == 0) {
        tls->reason = BRUMA_REASON_TLS_HANDSHAKE_FAILED;
        snprintf(tls->error, sizeof(tls->error), "TLS: the peer closed during the handshake");
        return -EPROTO;
    }
    ERR_clear_error();
    r = SSL_do_handshake(tls->ssl);
    if (r == 1) {
        tls->established = true;
        /* The peer may have sent data in the same segment: it stays in the buffer for tls_read(), which the
         * caller calls next. */
    } else if (SSL_get_error(tls->ssl, r) != SSL_ERROR_WANT_READ) {
        r = fail(tls);
        tls_flush(tls); /* the alert that tells the peer why */
        return r;
    } else {
        r = 0;
    }
    n = tls_flush(tls);
    return n < 0 ? (int)n : r;
}

ssize_t tls_read(struct tls *tls, uint8_t *buf, size_t size, bool *ret_more)
{
    size_t total = 0;
    bool ended = false;

    *ret_more = false;
    if (!tls->in_len) {
        ssize_t n = receive(tls);

        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return n;
        ended = n == 0;
        *ret_more = (size_t)n == tls->buffers->size;
    }
    ERR_clear_error();
    while (total < size) {
        size_t n = 0;
        int r = SSL_read_ex(tls->ssl, buf + total, size - total, &n), error;

        if (r == 1) {
            total += n;
            continue;
        }
        error = SSL_get_error(tls->ssl, r);
        if (error == SSL_ERROR_WANT_READ)
            break;
        tls->in_len = 0;
        if (error == SSL_ERROR_ZERO_RETURN)
            return total ? (ssize_t)total : -EPIPE;
        return fail(tls);
    }
    if (!total && ended)
        return -EPIPE;
    if (tls->in_len || total == size)
        *ret_more = true;
    return (ssize_t)total;
}

int tls_write(struct tls *tls, const uint8_t *data, size_t len)
{
    ERR_clear_error();
    while (len) {
        size_t n = 0, part = len < RECORD_PLAIN ? len : RECORD_PLAIN;

        if (tls->buffers->size - tls->buffers->gathered_len < part + RECORD_OVERHEAD) {
            int r = tls_flush(tls);

            if (r < 0)
                return r;
            /* The socket is full in the middle of a flush: the rest has been taken from its sources already,
             * so it is encrypted into the pending bytes by the next loop rounds below. */
        }
        if (SSL_write_ex(tls->ssl, data, part, &n) != 1)
            return fail(tls);
        data += n;
        len -= n;
    }
    return 0;
}

/* Keeps what the socket did not take. */
static int keep(struct tls *tls, const uint8_t *data, size_t len)
{
    size_t held = tls->pending_len - tls->pending_offset;
    uint8_t *grown = malloc(held + len);

    if (!grown)
        return -ENOMEM;
    if (held)
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

int tls_flush(struct tls *tls)
{
    struct tls_buffers *b = tls->buffers;
    size_t len = b->gathered_len;
    ssize_t n;
    int r;

    b->gathered_len = 0;
    if (tls->pending) {
        n = send_all(tls->fd, tls->pending + tls->pending_offset, tls->pending_len - tls->pending_offset);
        if (n < 0)
            return (int)n;
        tls->pending_offset += (size_t)n;
        if (tls->pending_offset < tls->pending_len) {
            r = len ? keep(tls, b->gathered, len) : 0;
            return r < 0 ? r : 1;
        }
        free(tls->pending);
        tls->pending = NULL;
        tls->pending_len = tls->pending_offset = 0;
    }
    if (!len)
        return 0;
    n = send_all(tls->fd, b->gathered, len);
    if (n < 0)
        return (int)n;
    if ((size_t)n == len)
        return 0;
    r = keep(tls, b->gathered + n, len - (size_t)n);
    return r < 0 ? r : 1;
}

void tls_shutdown(struct tls *tls)
{
    if (!tls->established || tls_blocked(tls))
        return;
    ERR_clear_error();
    SSL_shutdown(tls->ssl);
    tls_flush(tls);
    ERR_clear_error();
}
