/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates for tests, made in memory: a root, and leaves with SPIFFE names. */
#ifndef TESTS_CERTIFICATES_H
#define TESTS_CERTIFICATES_H

#include <criterion/criterion.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
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

struct test_extension {
    int nid;
    const char *value; /* NULL: not there */
};

/* organization NULL: an empty name. */
static inline X509 *test_signed(EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key, const char *organization,
                                const struct test_extension *extensions, size_t extensions_len, long from,
                                long to)
{
    static long serial = 1;
    X509 *cert = X509_new();
    X509V3_CTX ctx;

    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(cert), from);
    X509_gmtime_adj(X509_getm_notAfter(cert), to);
    X509_set_pubkey(cert, key);
    if (organization)
        X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "O", MBSTRING_ASC,
                                   (const unsigned char *)organization, -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(issuer ? issuer : cert));
    X509V3_set_ctx(&ctx, issuer ? issuer : cert, cert, NULL, NULL, 0);
    for (size_t i = 0; i < extensions_len; i++) {
        X509_EXTENSION *e = NULL;

        if (!extensions[i].value)
            continue;
        e = X509V3_EXT_conf_nid(NULL, &ctx, extensions[i].nid, extensions[i].value);
        cr_assert(e != NULL, "%s", extensions[i].value);
        X509_add_ext(cert, e, -1);
        X509_EXTENSION_free(e);
    }
    cr_assert(X509_sign(cert, issuer_key, EVP_sha256()));
    return cert;
}

/* issuer NULL: a root. */
static inline X509 *test_certificate(EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key, const char *san,
                                     long from, long to)
{
    const struct test_extension extensions[] = {
        {NID_basic_constraints, issuer ? NULL : "critical,CA:TRUE"},
        {NID_subject_alt_name, san},
    };

    return test_signed(key, issuer, issuer_key, issuer ? NULL : "test", extensions, 2, from, to);
}

static inline struct test_ca test_ca(void)
{
    struct test_ca ca = {.key = EVP_EC_gen("prime256v1")};

    ca.cert = test_certificate(ca.key, NULL, ca.key, NULL, -3600, 86400);
    ca.pem = test_pem(ca.cert);
    return ca;
}

/* A CA that has its certificate from another. */
static inline struct test_ca test_ca_below(const struct test_ca *above, long from, long to)
{
    const struct test_extension extension = {NID_basic_constraints, "critical,CA:TRUE"};
    struct test_ca ca = {.key = EVP_EC_gen("prime256v1")};

    ca.cert = test_signed(ca.key, above->cert, above->key, "below", &extension, 1, from, to);
    ca.pem = test_pem(ca.cert);
    return ca;
}

static inline void test_ca_free(struct test_ca *ca)
{
    EVP_PKEY_free(ca->key);
    X509_free(ca->cert);
    free(ca->pem);
}

/* A list of the CA that names cert (or nobody); number: with CRLNumber. */
static inline X509_CRL *test_crl(const struct test_ca *ca, EVP_PKEY *signer, X509 *cert, bool number)
{
    X509_CRL *list = X509_CRL_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, -7200);

    X509_CRL_set_version(list, 1);
    X509_CRL_set_issuer_name(list, X509_get_subject_name(ca->cert));
    X509_CRL_set1_lastUpdate(list, now);
    X509_gmtime_adj(now, -3600); /* out of date, which does not matter */
    X509_CRL_set1_nextUpdate(list, now);
    if (cert) {
        X509_REVOKED *entry = X509_REVOKED_new();

        X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(cert));
        X509_REVOKED_set_revocationDate(entry, now);
        X509_CRL_add0_revoked(list, entry);
    }
    if (number) {
        ASN1_INTEGER *one = ASN1_INTEGER_new();

        ASN1_INTEGER_set(one, 1);
        cr_assert(X509_CRL_add1_ext_i2d(list, NID_crl_number, one, 0, 0) == 1);
        ASN1_INTEGER_free(one);
    }
    X509_CRL_sort(list);
    cr_assert(X509_CRL_sign(list, signer, EVP_sha256()));
    ASN1_TIME_free(now);
    return list;
}

static inline char *test_crl_pem(X509_CRL *list)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data, *copy;
    long n;

    cr_assert(PEM_write_bio_X509_CRL(bio, list));
    n = BIO_get_mem_data(bio, &data);
    copy = strndup(data, (size_t)n);
    BIO_free(bio);
    return copy;
}

/* Takes the list. */
static inline void test_crl_save(const char *path, X509_CRL *list)
{
    char *pem = test_crl_pem(list);
    FILE *f = fopen(path, "w");

    cr_assert(f && fputs(pem, f) >= 0 && fclose(f) == 0);
    free(pem);
    X509_CRL_free(list);
}

static inline void test_crl_write(const char *path, const struct test_ca *ca, EVP_PKEY *signer, X509 *cert,
                                  bool number)
{
    test_crl_save(path, test_crl(ca, signer, cert, number));
}

#endif
