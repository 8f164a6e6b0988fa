/* SPDX-License-Identifier: Apache-2.0 */
/* What SPIRE's agent would send: certificates in DER, in its messages. */
#ifndef TESTS_UNIT_PROXY_IDENTITY_SPIRE_TEST_H
#define TESTS_UNIT_PROXY_IDENTITY_SPIRE_TEST_H

#include "proxy/wire/wire.h"
#include "tests/unit/certificates.h"

#define DOMAIN "near.domain"
#define PATH   "/ns/shop/sa/web"
#define WEB    "spiffe://" DOMAIN PATH

struct der {
    unsigned char *data;
    size_t len;
};

static inline struct der der_of(X509 *cert)
{
    struct der d = {};

    d.len = (size_t)i2d_X509(cert, &d.data);
    return d;
}

static inline struct der key_der(EVP_PKEY *key)
{
    PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(key);
    struct der d = {};

    d.len = (size_t)i2d_PKCS8_PRIV_KEY_INFO(info, &d.data);
    PKCS8_PRIV_KEY_INFO_free(info);
    return d;
}

static inline void der_free(struct der *d)
{
    OPENSSL_free(d->data);
    *d = (struct der){};
}

static inline void put_der(struct wire_writer *w, uint32_t field, struct der d)
{
    wire_put_bytes(w, field, d.data, d.len);
}

/* X509SVIDWithKey as field 1. */
static inline void put_svid(struct wire_writer *w, const char *domain, const char *path, struct der cert,
                            struct der between, struct der key)
{
    struct wire_writer id = {}, svid = {}, with_key = {};

    wire_put_string(&id, 1, domain);
    wire_put_string(&id, 2, path);
    put_der(&svid, 1, cert);
    if (between.len)
        put_der(&svid, 1, between);
    wire_put_message(&svid, 2, &id);
    wire_put_varint(&svid, 3, 1234);
    wire_put_string(&svid, 4, "hint");
    wire_put_message(&with_key, 1, &svid);
    put_der(&with_key, 2, key);
    wire_put_message(w, 1, &with_key);
}

/* An entry of a map from names to bytes. */
static inline void put_bundle(struct wire_writer *w, uint32_t field, const char *name, struct der roots)
{
    struct wire_writer entry = {};

    wire_put_string(&entry, 1, name);
    put_der(&entry, 2, roots);
    wire_put_message(w, field, &entry);
}

/* A CA, and a certificate of WEB that it has signed. */
struct spire {
    struct test_ca ca;
    EVP_PKEY *key;
    X509 *cert;
    struct der root, leaf, key_der;
};

static inline struct spire spire(const char *uri)
{
    struct spire s = {.ca = test_ca(), .key = EVP_EC_gen("prime256v1")};
    char san[300];

    snprintf(san, sizeof(san), "URI:%s", uri);
    s.cert = test_certificate(s.key, s.ca.cert, s.ca.key, san, -60, 3600);
    s.root = der_of(s.ca.cert);
    s.leaf = der_of(s.cert);
    s.key_der = key_der(s.key);
    return s;
}

static inline void spire_free(struct spire *s)
{
    der_free(&s->root);
    der_free(&s->leaf);
    der_free(&s->key_der);
    X509_free(s->cert);
    EVP_PKEY_free(s->key);
    test_ca_free(&s->ca);
}

#endif
