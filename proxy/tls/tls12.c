/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of a connection of TLS 1.2 (RFC 5246 section 6.3), which OpenSSL does not give away as such. */
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>

#include "proxy/tls/tls_internal.h"

#define MASTER_MAX 48
#define BLOCK_MAX \
    (2 * (32 + 4)) /* keys of client and server, then their parts of IVs; there are no MAC keys */

static bool expand(const SSL *ssl, const struct record_suite *suite, uint8_t *block, size_t len)
{
    uint8_t master[MASTER_MAX], seed[13 + 2 * SSL3_RANDOM_SIZE] = "key expansion";
    size_t master_len = SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof(master));
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
    EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, suite->sha384 ? "SHA384" : "SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, master, master_len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, seed, sizeof(seed)),
        OSSL_PARAM_construct_end(),
    };
    bool ok;

    SSL_get_server_random(ssl, seed + 13, SSL3_RANDOM_SIZE);
    SSL_get_client_random(ssl, seed + 13 + SSL3_RANDOM_SIZE, SSL3_RANDOM_SIZE);
    ok = ctx && master_len && EVP_KDF_derive(ctx, block, len, params) == 1;
    OPENSSL_cleanse(master, sizeof(master));
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    ERR_clear_error();
    return ok;
}

/* In 1.3 each side renews what it seals by. */
bool tls_keys_worn(const struct tls *tls)
{
    return tls->established && tls->seal.suite->tls12 &&
           (record_key_worn(&tls->seal) || record_key_worn(&tls->open));
}

void tls12_take_secrets(struct tls *tls)
{
    const struct record_suite *suite = record_suite_find(SSL_get_cipher_name(tls->ssl));
    uint8_t block[BLOCK_MAX];

    if (!suite || !suite->tls12 || !expand(tls->ssl, suite, block, 2 * suite->secret_len))
        return;
    for (size_t i = 0; i < 2; i++) {
        memcpy(tls->secrets[i], block + i * suite->key_len, suite->key_len);
        memcpy(tls->secrets[i] + suite->key_len, block + 2 * suite->key_len + 4 * i, 4);
        tls->have_secret[i] = true;
    }
    tls->secret_len = suite->secret_len;
    OPENSSL_cleanse(block, sizeof(block));
}
