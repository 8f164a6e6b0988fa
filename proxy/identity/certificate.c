/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/certificate.h"

#include <errno.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"

/* IstioCertificateRequest, IstioCertificateResponse, and the Struct in the metadata */
enum { REQUEST_CSR = 1, REQUEST_VALIDITY = 3, REQUEST_METADATA = 4, RESPONSE_CHAIN = 1 };
enum { STRUCT_FIELDS = 1, ENTRY_KEY = 1, ENTRY_VALUE = 2, VALUE_STRING = 3 };

#define IMPERSONATED "ImpersonatedIdentity"

static int add_san(X509_REQ *csr, const char *identity)
{
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *uri = ASN1_IA5STRING_new();
    STACK_OF(X509_EXTENSION) *extensions = sk_X509_EXTENSION_new_null();
    X509_EXTENSION *san = NULL;
    int ok = names && name && uri && extensions && ASN1_STRING_set(uri, identity, -1);

    if (ok) {
        GENERAL_NAME_set0_value(name, GEN_URI, uri);
        uri = NULL;
        ok = sk_GENERAL_NAME_push(names, name) > 0;
        name = ok ? NULL : name;
    }
    if (ok)
        san = X509V3_EXT_i2d(NID_subject_alt_name, 1, names);
    ok = ok && san && sk_X509_EXTENSION_push(extensions, san) > 0 && X509_REQ_add_extensions(csr, extensions);
    sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
    ASN1_IA5STRING_free(uri);
    GENERAL_NAME_free(name);
    GENERAL_NAMES_free(names);
    return ok ? 0 : -ENOMEM;
}

static char *csr_pem(EVP_PKEY *key, const char *identity)
{
    X509_REQ *csr = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL, *data;
    long n;

    if (csr && bio && X509_REQ_set_version(csr, 0) && X509_REQ_set_pubkey(csr, key) &&
        add_san(csr, identity) == 0 && X509_REQ_sign(csr, key, EVP_sha256()) &&
        PEM_write_bio_X509_REQ(bio, csr)) {
        n = BIO_get_mem_data(bio, &data);
        text = strndup(data, (size_t)n);
    }
    X509_REQ_free(csr);
    BIO_free(bio);
    return text;
}

int certificate_request(const char *identity, bool for_itself, uint64_t ttl_seconds, EVP_PKEY **ret_key,
                        struct wire_writer *ret)
{
    struct wire_writer w = {}, metadata = {}, entry = {}, value = {};
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    _cleanup_free_ char *csr = key ? csr_pem(key, identity) : NULL;

    if (!csr) {
        EVP_PKEY_free(key);
        return -ENOMEM;
    }
    wire_put_string(&w, REQUEST_CSR, csr);
    wire_put_varint(&w, REQUEST_VALIDITY, ttl_seconds);
    if (!for_itself) {
        wire_put_string(&value, VALUE_STRING, identity);
        wire_put_string(&entry, ENTRY_KEY, IMPERSONATED);
        wire_put_message(&entry, ENTRY_VALUE, &value);
        wire_put_message(&metadata, STRUCT_FIELDS, &entry);
        wire_put_message(&w, REQUEST_METADATA, &metadata);
    }
    if (w.failed) {
        wire_writer_clear(&w);
        EVP_PKEY_free(key);
        return -ENOMEM;
    }
    *ret_key = key;
    *ret = w;
    return 0;
}

void certificate_clear(struct certificate *c)
{
    for (size_t i = 0; i < c->chain_len; i++)
        free(c->chain[i]);
    free(c->roots);
    memset(c, 0, sizeof(*c));
}

static X509 *first_certificate(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;

    BIO_free(bio);
    ERR_clear_error();
    return cert;
}

/* This one URI, and no other: peers refuse a certificate that names two. */
static bool names_identity(X509 *leaf, const char *identity)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
    bool same = false;
    int count = 0;

    for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        const char *uri;
        size_t len;

        if (name->type != GEN_URI)
            continue;
        uri = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
        len = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier);
        same = len == strlen(identity) && !memcmp(uri, identity, len);
        count++;
    }
    GENERAL_NAMES_free(names);
    return same && count == 1;
}

static bool add_all(const char *pem, bool (*add)(void *data, X509 *cert), void *data)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    bool ok = bio;
    X509 *cert;

    while (ok && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        ok = add(data, cert);
        X509_free(cert);
    }
    BIO_free(bio);
    ERR_clear_error();
    return ok;
}

static bool add_root(void *store, X509 *cert)
{
    return X509_STORE_add_cert(store, cert) == 1;
}

static bool add_intermediate(void *stack, X509 *cert)
{
    X509_up_ref(cert);
    if (sk_X509_push(stack, cert) > 0)
        return true;
    X509_free(cert);
    return false;
}

/* Peers will do the same; better not to serve what they refuse. Dates are looked at apart: clocks differ a
 * little. The last root need not be self-signed. */
static bool chain_verifies(const struct certificate *c, X509 *leaf)
{
    X509_STORE *store = X509_STORE_new();
    STACK_OF(X509) *others = sk_X509_new_null();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    bool ok = store && others && ctx && add_all(c->roots, add_root, store);

    for (size_t i = 0; ok && i < c->chain_len; i++)
        ok = add_all(c->chain[i], add_intermediate, others);
    if (ok && X509_STORE_CTX_init(ctx, store, leaf, others) == 1) {
        X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_NO_CHECK_TIME);
        ok = X509_verify_cert(ctx) == 1;
    }
    X509_STORE_CTX_free(ctx);
    sk_X509_pop_free(others, X509_free);
    X509_STORE_free(store);
    return ok;
}

/* Also for a clock that begins in 1970, where dates are around 0. */
static bool time_of(const ASN1_TIME *t, time_t *ret)
{
    struct tm tm;

    if (!ASN1_TIME_to_tm(t, &tm))
        return false;
    *ret = timegm(&tm);
    return true;
}

struct lifetime {
    time_t begin, end;
};

static bool narrow(void *data, X509 *cert)
{
    struct lifetime *all = data, one;

    if (!time_of(X509_get0_notBefore(cert), &one.begin) || !time_of(X509_get0_notAfter(cert), &one.end) ||
        one.end <= one.begin)
        return false;
    all->begin = one.begin > all->begin ? one.begin : all->begin;
    all->end = one.end < all->end ? one.end : all->end;
    return true;
}

/* While all that is presented to peers is good; what it stands on is theirs to judge. Whether there is such a
 * time. */
static bool chain_lasts(struct certificate *c)
{
    struct lifetime all = {.begin = INT64_MIN, .end = INT64_MAX};

    for (size_t i = 0; i < c->chain_len; i++) {
        if (!add_all(c->chain[i], narrow, &all))
            return false;
    }
    c->not_before = all.begin;
    c->not_after = all.end;
    return all.begin < all.end || all.end <= time(NULL); /* the latter says more */
}

static int bad(char *error, size_t size, const char *text)
{
    snprintf(error, size, "%s", text);
    return -EBADMSG;
}

static int read_chain(const uint8_t *message, size_t len, struct certificate *c, char *error,
                      size_t error_size)
{
    struct wire_reader r = wire_reader(message, len);
    struct wire_field f;
    int more;

    while ((more = wire_next(&r, &f)) > 0) {
        if (f.number != RESPONSE_CHAIN || f.type != WIRE_BYTES)
            continue;
        if (c->chain_len == CERTIFICATE_CHAIN_MAX)
            return bad(error, error_size, "the answer holds too many certificates");
        c->chain[c->chain_len] = strndup((const char *)f.bytes, f.len);
        if (!c->chain[c->chain_len])
            return bad(error, error_size, "out of memory");
        c->chain_len++;
    }
    if (more < 0)
        return bad(error, error_size, "the answer is malformed");
    if (c->chain_len < 2)
        return bad(error, error_size, "the answer holds no root certificate");
    c->roots = c->chain[--c->chain_len];
    return 0;
}

int certificate_check(struct certificate *c, const char *identity, EVP_PKEY *key, char *error,
                      size_t error_size)
{
    X509 *leaf = first_certificate(c->chain[0]);
    time_t own_end = 0;
    int r = 0;

    if (!leaf)
        r = bad(error, error_size, "the first certificate cannot be read");
    else if (X509_check_private_key(leaf, key) != 1)
        r = bad(error, error_size, "the certificate is for another key");
    else if (!names_identity(leaf, identity))
        r = bad(error, error_size, "the certificate is for another identity");
    else if (!chain_verifies(c, leaf))
        r = bad(error, error_size, "the certificate is not signed by the roots that come with it");
    else if (!time_of(X509_get0_notAfter(leaf), &own_end) || !chain_lasts(c))
        r = bad(error, error_size, "the certificate's dates, or its chain's, make no sense");
    else if (c->not_after <= time(NULL))
        r = bad(error, error_size,
                own_end <= time(NULL) ? "the certificate has expired already"
                                      : "a certificate of its chain has expired already");
    X509_free(leaf);
    ERR_clear_error();
    return r;
}

int certificate_response(const uint8_t *message, size_t len, const char *identity, EVP_PKEY *key,
                         struct certificate *ret, char *error, size_t error_size)
{
    struct certificate c = {};
    int r = read_chain(message, len, &c, error, error_size);

    if (r == 0)
        r = certificate_check(&c, identity, key, error, error_size);
    if (r < 0)
        certificate_clear(&c);
    else
        *ret = c;
    return r;
}
