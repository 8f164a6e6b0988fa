/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/tls.h"

#include <errno.h>
#include <openssl/bio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/tls/crl.h"
#include "proxy/tls/session_store.h"
#include "proxy/tls/tls_internal.h"
#include "proxy/tls/verify.h"

#define CHAIN_DEPTH 6 /* certificates between a peer's own and a root */

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
    bio = tls->ssl ? BIO_new(tls_handshake_method()) : NULL;
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

void tls_destroy(struct tls *tls)
{
    if (tls->buffers) {
        tls_drop_input(tls);
        shared_buffer_leave(&tls->buffers->gathered, tls);
    }
    SSL_free(tls->ssl);
    tls_context_unref(tls->context);
    record_key_clear(&tls->seal);
    record_key_clear(&tls->open);
    OPENSSL_cleanse(tls->secrets, sizeof(tls->secrets));
    sk_X509_pop_free(tls->peer_chain, X509_free);
    tls_session_free(&tls->session);
    free(tls->partial);
    free(tls->pending);
    budget_give_all(&tls->account);
    tls->peer_chain = NULL;
    tls->ssl = NULL;
    tls->context = NULL;
    tls->partial = tls->pending = NULL;
}
