/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates for tests, made in memory: a root, and leaves with SPIFFE names. */
#ifndef TESTS_CERTIFICATES_H
#define TESTS_CERTIFICATES_H

#include <criterion/criterion.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

struct test_ca {
    EVP_PKEY *key;
    X509 *cert;
    char *pem;
};

static inline char *test_pem(X509 *cert)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data, *copy;
    long n;

    cr_assert(PEM_write_bio_X509(bio, cert));
    n = BIO_get_mem_data(bio, &data);
    copy = strndup(data, (size_t)n);
    BIO_free(bio);
    return copy;
}

static inline X509 *test_certificate(EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key, const char *san,
                                     long from, long to)
{
    static long serial = 1;
    X509 *cert = X509_new();
    X509_EXTENSION *e;
    X509V3_CTX ctx;

    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(cert), from);
    X509_gmtime_adj(X509_getm_notAfter(cert), to);
    X509_set_pubkey(cert, key);
    if (!issuer)
        X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "O", MBSTRING_ASC,
                                   (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(issuer ? issuer : cert));
    X509V3_set_ctx(&ctx, issuer ? issuer : cert, cert, NULL, NULL, 0);
    if (!issuer) {
        e = X509V3_EXT_conf_nid(NULL, &ctx, NID_basic_constraints, "critical,CA:TRUE");
        X509_add_ext(cert, e, -1);
        X509_EXTENSION_free(e);
    }
    if (san) {
        e = X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_alt_name, san);
        cr_assert(e != NULL, "%s", san);
        X509_add_ext(cert, e, -1);
        X509_EXTENSION_free(e);
    }
    cr_assert(X509_sign(cert, issuer_key, EVP_sha256()));
    return cert;
}

static inline struct test_ca test_ca(void)
{
    struct test_ca ca = {.key = EVP_EC_gen("prime256v1")};

    ca.cert = test_certificate(ca.key, NULL, ca.key, NULL, -3600, 86400);
    ca.pem = test_pem(ca.cert);
    return ca;
}

static inline void test_ca_free(struct test_ca *ca)
{
    EVP_PKEY_free(ca->key);
    X509_free(ca->cert);
    free(ca->pem);
}

#endif
