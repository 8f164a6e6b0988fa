/* SPDX-License-Identifier: Apache-2.0 */
/* The handshake is OpenSSL's, over a BIO that reads the turn's received bytes and gathers what is to be sent;
 * then two secrets are all that is taken from it. */
#include <openssl/bio.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "lib/tls_policy.h"
#include "proxy/tls/resumption.h"
#include "proxy/tls/tls_internal.h"

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
        if (tls_send_gathered(tls) < 0 || tls_blocked(tls) || len > out->size)
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

BIO_METHOD *tls_handshake_method(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_method);
    return turn_method;
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

    if (!tls_policy_met(tls->ssl)) {
        tls->reason = BRUMA_REASON_TLS_HANDSHAKE_FAILED;
        snprintf(tls->error, sizeof(tls->error), "TLS: 1.2 without the extended master secret, against %s",
                 tls_policy_name());
        return -EPROTO;
    }
    if (SSL_version(tls->ssl) == TLS1_2_VERSION)
        tls12_take_secrets(tls);
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
    /* of TLS 1.2 the end of the handshake was the first record under these keys */
    tls->seal.sequence = tls->open.sequence = tls->seal.suite->tls12;
    SSL_free(tls->ssl);
    tls->ssl = NULL;
    tls->established = true;
    return 1;
}

bool tls_has_read(const struct tls *tls)
{
    return !tls->ssl || tls->in_len || BIO_number_read(SSL_get_rbio(tls->ssl)) > 0;
}

int tls_handshake(struct tls *tls)
{
    ssize_t n = tls_receive(tls);
    int r;

    if (n < 0 && n != -EAGAIN)
        return (int)n;
    if (n == 0) {
        tls_drop_input(tls);
        tls->reason = BRUMA_REASON_TLS_HANDSHAKE_FAILED;
        snprintf(tls->error, sizeof(tls->error), "TLS: the peer closed during the handshake");
        return -EPROTO;
    }
    ERR_clear_error();
    r = SSL_do_handshake(tls->ssl);
    if (!tls->in_len)
        tls_drop_input(tls);
    if (r == 1) {
        if (tls_resumption_done(tls) < 0) {
            tls_drop_input(tls);
            shared_buffer_leave(&tls->buffers->gathered, tls);
            return -EPROTO;
        }
        n = tls_send_gathered(tls);
        return n < 0 ? (int)n : take_over(tls);
    }
    if (SSL_get_error(tls->ssl, r) != SSL_ERROR_WANT_READ) {
        r = tls_fail(tls);
        tls_send_gathered(tls); /* the alert that tells the peer why */
        tls_drop_input(tls);
        return r;
    }
    n = tls_send_gathered(tls);
    return n < 0 ? (int)n : 0;
}
