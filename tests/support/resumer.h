/* SPDX-License-Identifier: Apache-2.0 */
/* A client by OpenSSL that resumes sessions as Bruma's proxies do: for programs that measure it or try to
 * break it. */
#ifndef TESTS_SUPPORT_RESUMER_H
#define TESTS_SUPPORT_RESUMER_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <string.h>

#include "proxy/tls/resumption.h"

/* What a connection goes on from, and what it leaves. Of one SSL at a time, in its app data. */
struct resumer {
    bool has, peer_takes_part;
    uint32_t early_data; /* that it claims it may send */
    uint8_t id[SESSION_ID], secret[SESSION_SECRET];
    const SSL_CIPHER *suite;
};

static inline int resumer_offer(SSL *tls, const EVP_MD *digest, const unsigned char **id, size_t *id_len,
                                SSL_SESSION **ret)
{
    struct resumer *r = SSL_get_app_data(tls);

    (void)digest;
    *id = r->id;
    *id_len = sizeof(r->id);
    *ret = NULL;
    if (!r->has)
        return 1;
    *ret = SSL_SESSION_new();
    return *ret && SSL_SESSION_set1_master_key(*ret, r->secret, sizeof(r->secret)) &&
           SSL_SESSION_set_cipher(*ret, r->suite) && SSL_SESSION_set_protocol_version(*ret, TLS1_3_VERSION) &&
           SSL_SESSION_set_max_early_data(*ret, r->early_data) &&
           SSL_SESSION_set1_alpn_selected(*ret, (const unsigned char *)"h2", 2);
}

static inline int resumer_say(SSL *tls, unsigned type, unsigned where, const unsigned char **out,
                              size_t *out_len, X509 *cert, size_t index, int *alert, void *data)
{
    static const unsigned char version[] = {RESUMPTION_VERSION};

    (void)tls, (void)type, (void)where, (void)cert, (void)index, (void)alert, (void)data;
    *out = version;
    *out_len = sizeof(version);
    return 1;
}

static inline int resumer_hear(SSL *tls, unsigned type, unsigned where, const unsigned char *in, size_t len,
                               X509 *cert, size_t index, int *alert, void *data)
{
    struct resumer *r = SSL_get_app_data(tls);

    (void)type, (void)where, (void)in, (void)len, (void)cert, (void)index, (void)alert, (void)data;
    r->peer_takes_part = true;
    return 1;
}

/* Whose SSLs all have a resumer. False without memory. */
static inline bool resumer_prepare(SSL_CTX *context)
{
    SSL_CTX_set_psk_use_session_callback(context, resumer_offer);
    return SSL_CTX_add_custom_ext(context, RESUMPTION_EXTENSION,
                                  SSL_EXT_CLIENT_HELLO | SSL_EXT_TLS1_3_ENCRYPTED_EXTENSIONS, resumer_say,
                                  NULL, NULL, resumer_hear, NULL) == 1;
}

/* The handshake is done: what the next one may go on from. */
static inline void resumer_keep(SSL *tls, struct resumer *r)
{
    uint8_t derived[SESSION_ID + SESSION_SECRET];

    r->has = r->peer_takes_part && SSL_export_keying_material(tls, derived, sizeof(derived), RESUMPTION_LABEL,
                                                              sizeof(RESUMPTION_LABEL) - 1, NULL, 0, 0) == 1;
    if (!r->has)
        return;
    memcpy(r->id, derived, SESSION_ID);
    memcpy(r->secret, derived + SESSION_ID, SESSION_SECRET);
    r->suite = SSL_get_current_cipher(tls);
}

#endif
