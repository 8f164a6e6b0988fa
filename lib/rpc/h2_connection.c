/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/h2_connection.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/tls_policy.h"

#define READ_SIZE       (64 * 1024)
#define READS_PER_EVENT 16
#define OUT_ENOUGH      (256 * 1024) /* more is not taken from the session before the socket has taken this */
/* With so much unsent nothing is read: only a peer that asks OpenSSL for new keys and does not read gets
 * here. (Less would not do: two ends that both send and do not read would wait for each other.) */
#define OUT_TOO_MUCH (2 * OUT_ENOUGH)

/* What a peer may ask of TLS in the middle of a connection, new keys in 1.3 and a second handshake (which is
 * declined each time) in 1.2, costs as much as some data do; so often it may with none between. */
#define TLS_REQUEST_WORTH 512
#define TLS_REQUESTS_MAX  32

static void on_event(struct loop_watch *watch, uint32_t events);

void h2_connection_fail(struct h2_connection *c, const char *text)
{
    if (c->closed)
        return;
    if (!c->error[0])
        snprintf(c->error, sizeof(c->error), "%s", text);
    c->closed = true;
    loop_timer_cancel(&c->timer);
    if (!c->busy)
        c->down(c);
}

static void fail_errno(struct h2_connection *c, int error)
{
    char buf[96];

    h2_connection_fail(c, strerror_r(error, buf, sizeof(buf)));
}

static void fail_tls(struct h2_connection *c)
{
    long verify = SSL_get_verify_result(c->ssl);
    unsigned long e = ERR_peek_last_error();
    const char *reason = e ? ERR_reason_error_string(e) : NULL;
    char text[160];

    if (verify != X509_V_OK && c->handshaking)
        snprintf(text, sizeof(text), "TLS: certificate: %s", X509_verify_cert_error_string(verify));
    else
        snprintf(text, sizeof(text), "TLS: %s", reason ? reason : "the peer closed");
    ERR_clear_error();
    h2_connection_fail(c, text);
}

static void leave(struct h2_connection *c)
{
    if (--c->busy == 0 && c->closed)
        c->down(c);
}

/* ---- sending ---- */

static int put(struct h2_connection *c, const uint8_t *data, size_t len)
{
    /* what is sent makes room: a peer that never takes all must not make this grow */
    if (c->out_offset && (c->out_offset == c->out_len || c->out_len + len > c->out_size)) {
        memmove(c->out, c->out + c->out_offset, c->out_len - c->out_offset);
        c->out_len -= c->out_offset;
        c->out_offset = 0;
    }
    if (c->out_len + len > c->out_size) {
        size_t size = (c->out_len + len) * 2;
        uint8_t *grown = realloc(c->out, size);

        if (!grown)
            return -ENOMEM;
        c->out = grown;
        c->out_size = size;
    }
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
    return 0;
}

/* Ciphertext that OpenSSL has made, into our buffer. */
static int take_ciphertext(struct h2_connection *c)
{
    char *data;
    long n = BIO_get_mem_data(SSL_get_wbio(c->ssl), &data);
    int r = n > 0 ? put(c, (uint8_t *)data, (size_t)n) : 0;

    (void)BIO_reset(SSL_get_wbio(c->ssl));
    return r;
}

/* 0, 1 if the socket is full, or -errno. */
static int write_out(struct h2_connection *c)
{
    while (c->out_offset < c->out_len) {
        ssize_t n = send(c->watch.fd, c->out + c->out_offset, c->out_len - c->out_offset,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 1 : -errno;
        c->out_offset += (size_t)n;
    }
    c->out_offset = c->out_len = 0;
    if (c->out_size > OUT_ENOUGH) {
        free(c->out);
        c->out = NULL;
        c->out_size = 0;
    }
    return 0;
}

/* 0: the session has nothing more to say; 1: it may have, and our buffer is full; -errno. Only the session
 * can tell: its queue does not count DATA. */
static int fill(struct h2_connection *c)
{
    while (c->out_len - c->out_offset < OUT_ENOUGH) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(c->session, &data);
        int r = 0;

        if (n < 0)
            return -EPROTO;
        if (n == 0)
            return 0;
        if (!c->ssl) {
            r = put(c, data, (size_t)n);
        } else {
            if (SSL_write(c->ssl, data, (int)n) != n)
                return -EPROTO;
            r = take_ciphertext(c);
        }
        if (r < 0)
            return r;
    }
    return 1;
}

static void watch_for(struct h2_connection *c, bool full)
{
    bool read = h2_connection_queued(c) < OUT_TOO_MUCH;

    loop_watch_modify(c->loop, &c->watch, (read ? (uint32_t)EPOLLIN : 0u) | (full ? (uint32_t)EPOLLOUT : 0u));
}

/* What does not go now goes on by an event that is sure to come: the socket is writable, or will be. */
static void send_all(struct h2_connection *c)
{
    int more = c->session && !c->handshaking && !c->connecting ? fill(c) : 0;
    int r = more < 0 ? more : write_out(c);

    if (r < 0)
        r == -EPROTO ? h2_connection_fail(c, "the HTTP/2 session failed") : fail_errno(c, -r);
    else
        watch_for(c, r == 1 || more == 1);
}

/* down() comes from the loop, not from here: callers hold things that it frees. */
void h2_connection_send(struct h2_connection *c)
{
    if (c->closed || c->busy)
        return; /* whoever is inside sends at the end */
    c->busy++;
    send_all(c);
    c->busy--;
    if (c->closed)
        loop_timer_set(c->loop, &c->timer, 0);
}

size_t h2_connection_queued(const struct h2_connection *c)
{
    return c->out_len - c->out_offset;
}

/* ---- receiving ---- */

static void take_plain(struct h2_connection *c, uint8_t *data, size_t len)
{
    ssize_t n = nghttp2_session_mem_recv(c->session, data, len);

    c->last_received = loop_now(c->loop);
    c->received++;
    if (c->secret)
        explicit_bzero(data, len);
    if (n < 0)
        h2_connection_fail(c, nghttp2_strerror((int)n));
}

static bool asks_for_more(uint8_t message)
{
    return message == SSL3_MT_KEY_UPDATE || message == SSL3_MT_HELLO_REQUEST;
}

static void on_tls_message(int written, int version, int type, const void *message, size_t len, SSL *ssl,
                           void *data)
{
    struct h2_connection *c = data;

    (void)version;
    (void)ssl;
    if (!written && type == SSL3_RT_HANDSHAKE && len && asks_for_more(*(const uint8_t *)message))
        c->tls_debt += TLS_REQUEST_WORTH;
}

static void take_tls(struct h2_connection *c)
{
    uint8_t buf[16384];
    int n;

    ERR_clear_error();
    while (!c->closed && (n = SSL_read(c->ssl, buf, sizeof(buf))) > 0) {
        c->tls_debt = c->tls_debt > (size_t)n ? c->tls_debt - (size_t)n : 0;
        take_plain(c, buf, (size_t)n);
    }
    if (!c->closed && c->tls_debt > TLS_REQUESTS_MAX * TLS_REQUEST_WORTH)
        h2_connection_fail(c, "TLS: new keys or handshakes are asked for again and again, with hardly any "
                              "data between");
    if (c->closed)
        return;
    switch (SSL_get_error(c->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        break;
    case SSL_ERROR_ZERO_RETURN:
        h2_connection_fail(c, "the peer closed the connection");
        break;
    default:
        fail_tls(c);
        break;
    }
    take_ciphertext(c);
}

static void shake_hands(struct h2_connection *c)
{
    int r;

    ERR_clear_error();
    r = SSL_do_handshake(c->ssl);
    take_ciphertext(c);
    if (r == 1 && !tls_policy_met(c->ssl)) {
        h2_connection_fail(c, "TLS: 1.2 without the extended master secret");
    } else if (r == 1) {
        c->handshaking = false;
        loop_timer_cancel(&c->timer);
        c->last_received = loop_now(c->loop);
        if (c->ready)
            c->ready(c);
        if (!c->closed)
            take_tls(c);
    } else if (SSL_get_error(c->ssl, r) != SSL_ERROR_WANT_READ) {
        write_out(c); /* the alert */
        fail_tls(c);
    }
}

static void on_readable(struct h2_connection *c)
{
    static __thread uint8_t buf[READ_SIZE];

    for (int i = 0; i < READS_PER_EVENT && !c->closed; i++) {
        ssize_t n = recv(c->watch.fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            fail_errno(c, errno);
        if (n < 0)
            return;
        if (n == 0) {
            h2_connection_fail(c, "the peer closed the connection");
            return;
        }
        if (!c->ssl) {
            take_plain(c, buf, (size_t)n);
            continue;
        }
        if (BIO_write(SSL_get_rbio(c->ssl), buf, (int)n) != n)
            h2_connection_fail(c, "out of memory");
        else if (c->handshaking)
            shake_hands(c);
        else
            take_tls(c);
    }
}

static void begin(struct h2_connection *c)
{
    c->connecting = false;
    if (c->ssl) {
        c->handshaking = true;
        shake_hands(c);
        return;
    }
    loop_timer_cancel(&c->timer);
    if (c->ready)
        c->ready(c);
}

static void on_event(struct loop_watch *watch, uint32_t events)
{
    struct h2_connection *c = container_of(watch, struct h2_connection, watch);

    if (c->closed)
        return; /* down() is on its way */
    c->busy++;
    if (c->connecting) {
        int error = 0;
        socklen_t len = sizeof(error);

        getsockopt(watch->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error)
            fail_errno(c, error);
        else if (events & EPOLLOUT)
            begin(c);
    } else if (events & ~(uint32_t)EPOLLOUT) {
        on_readable(c);
    }
    if (!c->closed)
        send_all(c);
    if (!c->closed && c->session && !c->handshaking && !c->connecting &&
        !nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session))
        h2_connection_fail(c, "the HTTP/2 session has ended");
    leave(c);
}

static void on_limit(struct loop_timer *timer)
{
    struct h2_connection *c = container_of(timer, struct h2_connection, timer);

    if (c->closed)
        c->down(c);
    else
        h2_connection_fail(c, c->connecting ? "connect timed out" : "the TLS handshake timed out");
}

int h2_connection_open(struct h2_connection *c, struct loop *loop, int fd, SSL *ssl, bool connecting,
                       unsigned limit_milliseconds)
{
    int r;

    c->loop = loop;
    c->connecting = connecting;
    c->handshaking = c->closed = false;
    c->error[0] = '\0';
    c->tls_debt = 0;
    c->ssl = ssl;
    c->watch.fd = -1;
    loop_timer_init(&c->timer, on_limit);
    if (ssl) {
        BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

        if (!in || !out) {
            BIO_free(in);
            BIO_free(out);
            SSL_free(ssl);
            c->ssl = NULL;
            close(fd);
            return -ENOMEM;
        }
        BIO_set_mem_eof_return(in, -1);
        SSL_set_bio(ssl, in, out);
        SSL_set_msg_callback(ssl, on_tls_message);
        SSL_set_msg_callback_arg(ssl, c);
    }
    r = loop_watch_add(loop, &c->watch, fd, connecting ? EPOLLOUT : EPOLLIN, on_event);
    if (r < 0) {
        close(fd);
        return r;
    }
    loop_timer_set(loop, &c->timer, limit_milliseconds);
    if (!connecting) {
        c->busy++;
        begin(c);
        if (!c->closed)
            send_all(c);
        c->busy--;
        if (c->closed) /* the caller is not ready for down() yet */
            loop_timer_set(loop, &c->timer, 0);
    }
    return 0;
}

void h2_connection_close(struct h2_connection *c)
{
    int fd = c->watch.fd;

    c->closed = true;
    if (c->timer.node.next)
        loop_timer_cancel(&c->timer);
    if (fd >= 0) {
        loop_watch_remove(c->loop, &c->watch);
        close(fd);
    }
    nghttp2_session_del(c->session);
    c->session = NULL;
    SSL_free(c->ssl);
    c->ssl = NULL;
    free(c->out);
    c->out = NULL;
    c->out_len = c->out_offset = c->out_size = 0;
}
