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

#include "lib/cleanup.h"

/* RFC 8446 section 5.5 allows 2^24.5 full records under one AES-GCM key, and it is the same cipher in
 * TLS 1.2. */
#define RECORDS_PER_KEY (1u << 23)

/* Fetched once: a look-up by name costs as much as a derivation. Never freed. */
static EVP_KDF *kdf;
static EVP_CIPHER *ciphers[2];

static void fetch(void)
{
    kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", NULL);
    ciphers[0] = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
    ciphers[1] = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
}

const struct record_suite *record_suite_find(const char *name)
{
    /* of TLS 1.2: key and salt in place of a traffic secret */
    static const struct record_suite suites[] = {
        {"TLS_AES_256_GCM_SHA384", false, true, 32, 48},
        {"TLS_AES_128_GCM_SHA256", false, false, 16, 32},
        {"ECDHE-ECDSA-AES256-GCM-SHA384", true, true, 32, 32 + 4},
        {"ECDHE-ECDSA-AES128-GCM-SHA256", true, false, 16, 16 + 4},
        {"ECDHE-RSA-AES256-GCM-SHA384", true, true, 32, 32 + 4},
        {"ECDHE-RSA-AES128-GCM-SHA256", true, false, 16, 16 + 4},
    };

    for (size_t i = 0; i < array_size(suites); i++) {
        if (!strcmp(suites[i].name, name))
            return &suites[i];
    }
    return NULL;
}

/* HKDF-Expand-Label of RFC 8446 section 7.1, with an empty context. By its own name and not as HKDF: that
 * way it is an approved function of FIPS. */
static int expand_label(const struct record_key *key, const char *label, uint8_t *out, size_t out_len)
{
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, ok;
    EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, key->suite->sha384 ? "SHA384" : "SHA256", 0),
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key->secret, key->suite->secret_len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, "tls13 ", 6),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, (void *)label, strlen(label)),
        OSSL_PARAM_construct_end(),
    };

    ok = ctx && EVP_KDF_derive(ctx, out, out_len, params) == 1;
    EVP_KDF_CTX_free(ctx);
    return ok ? 0 : -ENOMEM;
}

static int set_key(struct record_key *key, const uint8_t *raw)
{
    /* a second init with a key and no cipher keeps the cipher */
    int ok = key->seals ? EVP_EncryptInit_ex(key->cipher, NULL, NULL, raw, NULL)
                        : EVP_DecryptInit_ex(key->cipher, NULL, NULL, raw, NULL);

    return ok ? 0 : -ENOMEM;
}

static int derive(struct record_key *key)
{
    uint8_t raw[32];
    int r;

    key->sequence = 0;
    if (key->suite->tls12) {
        memcpy(key->iv, key->secret + key->suite->key_len, 4);
        return set_key(key, key->secret);
    }
    r = expand_label(key, "key", raw, key->suite->key_len);
    if (r == 0)
        r = expand_label(key, "iv", key->iv, sizeof(key->iv));
    if (r == 0)
        r = set_key(key, raw);
    OPENSSL_cleanse(raw, sizeof(raw));
    return r;
}

int record_key_init(struct record_key *key, const char *cipher_suite, const uint8_t *secret, size_t len,
                    bool seals)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const EVP_CIPHER *cipher;
    int ok;

    pthread_once(&once, fetch);
    memset(key, 0, sizeof(*key));
    key->suite = record_suite_find(cipher_suite);
    if (!key->suite || len != key->suite->secret_len)
        return -ENOTSUP;
    cipher = ciphers[key->suite->key_len == 32];
    if (!cipher)
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
    int r = key->suite->tls12 ? -EPROTO : expand_label(key, "traffic upd", next, key->suite->secret_len);

    if (r < 0)
        return r;
    memcpy(key->secret, next, key->suite->secret_len);
    OPENSSL_cleanse(next, sizeof(next));
    return derive(key);
}

bool record_key_worn(const struct record_key *key)
{
    return key->sequence >= RECORDS_PER_KEY;
}

/* What a record is sealed with beside the key. */
struct frame {
    uint8_t iv[12];
    uint8_t aad[13]; /* what is authenticated and not encrypted */
    int aad_len;
};

static void put_number(uint8_t out[8], uint64_t n)
{
    for (int i = 7; i >= 0; i--, n >>= 8)
        out[i] = (uint8_t)n;
}

/* Of the key's next record. header: the record's own; explicit_nonce: of TLS 1.2, behind it. */
static struct frame next_frame(struct record_key *key, const uint8_t *header, const uint8_t *explicit_nonce,
                               size_t plain_len)
{
    struct frame f = {.aad_len = RECORD_HEADER};
    uint8_t number[8];

    put_number(number, key->sequence++);
    memcpy(f.iv, key->iv, sizeof(f.iv));
    if (!key->suite->tls12) {
        memcpy(f.aad, header, RECORD_HEADER);
        for (int i = 0; i < 8; i++)
            f.iv[4 + i] ^= number[i];
        return f;
    }
    memcpy(f.iv + 4, explicit_nonce, RECORD_NONCE);
    memcpy(f.aad, number, sizeof(number));
    memcpy(f.aad + 8, header, 3);
    f.aad[11] = (uint8_t)(plain_len >> 8);
    f.aad[12] = (uint8_t)plain_len;
    f.aad_len = sizeof(f.aad);
    return f;
}

static void put_header(uint8_t *out, enum record_type type, size_t body)
{
    out[0] = (uint8_t)type;
    out[1] = 3;
    out[2] = 3;
    out[3] = (uint8_t)(body >> 8);
    out[4] = (uint8_t)body;
}

/* Data, and of TLS 1.3 its type behind it. */
long record_seal(struct record_key *key, enum record_type type, const uint8_t *data, size_t len, uint8_t *out)
{
    size_t lead = key->suite->tls12 ? RECORD_NONCE : 0, inner_len = key->suite->tls12 ? 0 : 1;
    size_t body = lead + len + inner_len + RECORD_TAG;
    uint8_t inner = (uint8_t)type, *cipher = out + RECORD_HEADER + lead, *end = cipher + len;
    struct frame f;
    int n;

    if (len > RECORD_PLAIN_MAX)
        return -EPROTO;
    put_header(out, inner_len ? RECORD_DATA : type, body);
    /* The number is as good a nonce as any (RFC 5288 section 3). */
    if (lead)
        put_number(out + RECORD_HEADER, key->sequence);
    f = next_frame(key, out, out + RECORD_HEADER, len);
    if (!EVP_EncryptInit_ex(key->cipher, NULL, NULL, NULL, f.iv) ||
        !EVP_EncryptUpdate(key->cipher, NULL, &n, f.aad, f.aad_len) ||
        (len && !EVP_EncryptUpdate(key->cipher, cipher, &n, data, (int)len)) ||
        (inner_len && !EVP_EncryptUpdate(key->cipher, end, &n, &inner, 1)) ||
        !EVP_EncryptFinal_ex(key->cipher, end + inner_len, &n) ||
        !EVP_CIPHER_CTX_ctrl(key->cipher, EVP_CTRL_AEAD_GET_TAG, RECORD_TAG, end + inner_len)) {
        ERR_clear_error();
        return -EPROTO;
    }
    return (long)(RECORD_HEADER + body);
}

bool record_header_valid(const struct record_key *key, uint8_t type, size_t body_len)
{
    if (body_len > RECORD_CIPHER_MAX)
        return false;
    if (key->suite->tls12)
        return (type == RECORD_DATA || type == RECORD_ALERT || type == RECORD_HANDSHAKE) &&
               body_len >= RECORD_NONCE + RECORD_TAG;
    /* a change of cipher spec may come only before the handshake is done */
    return type == RECORD_DATA && body_len > RECORD_TAG;
}

long record_open(struct record_key *key, const uint8_t *record, size_t body_len, uint8_t *out,
                 uint8_t *ret_type)
{
    size_t lead = key->suite->tls12 ? RECORD_NONCE : 0, len;
    const uint8_t *body = record + RECORD_HEADER + lead;
    struct frame f;
    int n = 0, rest;

    if (!record_header_valid(key, record[0], body_len))
        return -EPROTO;
    len = body_len - lead - RECORD_TAG;
    f = next_frame(key, record, record + RECORD_HEADER, len);
    if (!EVP_DecryptInit_ex(key->cipher, NULL, NULL, NULL, f.iv) ||
        !EVP_CIPHER_CTX_ctrl(key->cipher, EVP_CTRL_AEAD_SET_TAG, RECORD_TAG, (void *)(body + len)) ||
        !EVP_DecryptUpdate(key->cipher, NULL, &n, f.aad, f.aad_len) ||
        (len && !EVP_DecryptUpdate(key->cipher, out, &n, body, (int)len)) ||
        !EVP_DecryptFinal_ex(key->cipher, out + len, &rest)) {
        ERR_clear_error();
        return -EPROTO;
    }
    *ret_type = record[0];
    if (key->suite->tls12)
        return len <= RECORD_PLAIN_MAX ? (long)len : -EPROTO;
    /* data, its type, then padding of zeros */
    while (len && !out[len - 1])
        len--;
    if (!len || len - 1 > RECORD_PLAIN_MAX)
        return -EPROTO;
    *ret_type = out[len - 1];
    return (long)len - 1;
}
