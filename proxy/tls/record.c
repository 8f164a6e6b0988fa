/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/record.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <pthread.h>
#include <string.h>

/* RFC 8446 section 5.5 allows 2^24.5 full records under one AES-GCM key. */
#define RECORDS_PER_KEY (1u << 23)

/* Fetched once: a look-up by name costs as much as a derivation. Never freed. */
static EVP_KDF *hkdf;

static void fetch_hkdf(void)
{
    hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
}

/* HKDF-Expand-Label of RFC 8446 section 7.1, with an empty context. */
static int expand_label(const EVP_MD *digest, const uint8_t *secret, size_t secret_len, const char *label,
                        uint8_t *out, size_t out_len)
{
    uint8_t info[64];
    size_t label_len = strlen(label), n = 0;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, ok;
    EVP_KDF_CTX *ctx;

    pthread_once(&once, fetch_hkdf);
    ctx = hkdf ? EVP_KDF_CTX_new(hkdf) : NULL;

    info[n++] = (uint8_t)(out_len >> 8);
    info[n++] = (uint8_t)out_len;
    info[n++] = (uint8_t)(6 + label_len);
    memcpy(info + n, "tls13 ", 6);
    memcpy(info + n + 6, label, label_len);
    n += 6 + label_len;
    info[n++] = 0;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)EVP_MD_get0_name(digest), 0),
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret, secret_len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, n),
        OSSL_PARAM_construct_end(),
    };
    ok = ctx && EVP_KDF_derive(ctx, out, out_len, params) == 1;
    EVP_KDF_CTX_free(ctx);
    return ok ? 0 : -ENOMEM;
}

static size_t secret_len(const struct record_key *key)
{
    return (size_t)EVP_MD_get_size(key->digest);
}

static int derive(struct record_key *key)
{
    uint8_t raw[32];
    int r = expand_label(key->digest, key->secret, secret_len(key), "key", raw, key->key_len), ok;

    if (r == 0)
        r = expand_label(key->digest, key->secret, secret_len(key), "iv", key->iv, sizeof(key->iv));
    if (r == 0) {
        /* a second init with a key and no cipher keeps the cipher */
        ok = key->seals ? EVP_EncryptInit_ex(key->cipher, NULL, NULL, raw, NULL)
                        : EVP_DecryptInit_ex(key->cipher, NULL, NULL, raw, NULL);
        r = ok ? 0 : -ENOMEM;
    }
    OPENSSL_cleanse(raw, sizeof(raw));
    key->sequence = 0;
    return r;
}

static EVP_CIPHER *ciphers[2];

static void fetch_ciphers(void)
{
    ciphers[0] = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    ciphers[1] = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
}

int record_key_init(struct record_key *key, const char *cipher_suite, const uint8_t *secret, size_t len,
                    bool seals)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const EVP_CIPHER *cipher;
    int ok;

    pthread_once(&once, fetch_ciphers);
    memset(key, 0, sizeof(*key));
    if (!strcmp(cipher_suite, "TLS_AES_256_GCM_SHA384")) {
        key->suite = "TLS_AES_256_GCM_SHA384";
        cipher = ciphers[0];
        key->digest = EVP_sha384();
        key->key_len = 32;
    } else if (!strcmp(cipher_suite, "TLS_AES_128_GCM_SHA256")) {
        key->suite = "TLS_AES_128_GCM_SHA256";
        cipher = ciphers[1];
        key->digest = EVP_sha256();
        key->key_len = 16;
    } else {
        return -ENOTSUP;
    }
    if (!cipher || len != secret_len(key))
        return -ENOTSUP;
    memcpy(key->secret, secret, len);
    key->seals = seals;
    key->cipher = EVP_CIPHER_CTX_new();
    if (!key->cipher)
        return -ENOMEM;
    ok = seals ? EVP_EncryptInit_ex(key->cipher, cipher, NULL, NULL, NULL)
               : EVP_DecryptInit_ex(key->cipher, cipher, NULL, NULL, NULL);
    if (!ok || derive(key) < 0) {
        record_key_clear(key);
        return -ENOMEM;
    }
    return 0;
}

void record_key_clear(struct record_key *key)
{
    EVP_CIPHER_CTX_free(key->cipher);
    OPENSSL_cleanse(key, sizeof(*key));
}

int record_key_update(struct record_key *key)
{
    uint8_t next[RECORD_SECRET_MAX];
    int r = expand_label(key->digest, key->secret, secret_len(key), "traffic upd", next, secret_len(key));

    if (r < 0)
        return r;
    memcpy(key->secret, next, secret_len(key));
    OPENSSL_cleanse(next, sizeof(next));
    return derive(key);
}

bool record_key_worn(const struct record_key *key)
{
    return key->sequence >= RECORDS_PER_KEY;
}

static void nonce(struct record_key *key, uint8_t out[12])
{
    uint64_t n = key->sequence++;

    memcpy(out, key->iv, 12);
    for (int i = 11; i >= 4; i--, n >>= 8)
        out[i] ^= (uint8_t)n;
}

long record_seal(struct record_key *key, enum record_type type, const uint8_t *data, size_t len, uint8_t *out)
{
    size_t body = len + 1 + RECORD_TAG;
    uint8_t iv[12], inner = (uint8_t)type;
    int n;

    if (len > RECORD_PLAIN_MAX)
        return -EPROTO;
    out[0] = RECORD_DATA;
    out[1] = 3;
    out[2] = 3;
    out[3] = (uint8_t)(body >> 8);
    out[4] = (uint8_t)body;
    nonce(key, iv);
    if (!EVP_EncryptInit_ex(key->cipher, NULL, NULL, NULL, iv) ||
        !EVP_EncryptUpdate(key->cipher, NULL, &n, out, RECORD_HEADER) ||
        (len && !EVP_EncryptUpdate(key->cipher, out + RECORD_HEADER, &n, data, (int)len)) ||
        !EVP_EncryptUpdate(key->cipher, out + RECORD_HEADER + len, &n, &inner, 1) ||
        !EVP_EncryptFinal_ex(key->cipher, out + RECORD_HEADER + len + 1, &n) ||
        !EVP_CIPHER_CTX_ctrl(key->cipher, EVP_CTRL_AEAD_GET_TAG, RECORD_TAG, out + RECORD_HEADER + len + 1)) {
        ERR_clear_error();
        return -EPROTO;
    }
    return (long)(RECORD_HEADER + body);
}

long record_open(struct record_key *key, const uint8_t *record, size_t body_len, uint8_t *out,
                 uint8_t *ret_type)
{
    const uint8_t *body = record + RECORD_HEADER;
    size_t len;
    uint8_t iv[12];
    int n;

    if (body_len < 1 + RECORD_TAG || body_len > RECORD_CIPHER_MAX)
        return -EPROTO;
    len = body_len - RECORD_TAG;
    nonce(key, iv);
    if (!EVP_DecryptInit_ex(key->cipher, NULL, NULL, NULL, iv) ||
        !EVP_CIPHER_CTX_ctrl(key->cipher, EVP_CTRL_AEAD_SET_TAG, RECORD_TAG, (void *)(body + len)) ||
        !EVP_DecryptUpdate(key->cipher, NULL, &n, record, RECORD_HEADER) ||
        !EVP_DecryptUpdate(key->cipher, out, &n, body, (int)len) ||
        !EVP_DecryptFinal_ex(key->cipher, out + n, &n)) {
        ERR_clear_error();
        return -EPROTO;
    }
    /* data, its type, then padding of zeros */
    while (len && !out[len - 1])
        len--;
    if (!len || len - 1 > RECORD_PLAIN_MAX)
        return -EPROTO;
    *ret_type = out[len - 1];
    return (long)len - 1;
}
