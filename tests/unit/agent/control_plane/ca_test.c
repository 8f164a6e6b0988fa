/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/ca.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/control_plane/control_files.h"

#define IDENTITY "spiffe://cluster.local/ns/shop/sa/web"

static char directory[] = "/tmp/bruma-ca-XXXXXX";

static void make_directory(void)
{
    cr_assert(mkdtemp(directory));
}

static void remove_directory(void)
{
    static const char *const names[] = {"ca-key.pem", "root-cert.pem", "given.pem"};
    char path[128];

    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

TestSuite(ca, .init = make_directory, .fini = remove_directory);

static struct ca *open_ca(const char *key_file)
{
    struct ca *ca = NULL;

    cr_assert(ca_open(directory, key_file, "cluster.local", &ca) == 0);
    return ca;
}

/* What the proxy sends: an empty subject and the identity as a SAN, which the CA does not look at. */
static char *request(EVP_PKEY *key, const EVP_MD *digest)
{
    X509_REQ *q = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    char *bytes, *text;
    long len;

    cr_assert(X509_REQ_set_pubkey(q, key) && X509_REQ_sign(q, key, digest));
    cr_assert(PEM_write_bio_X509_REQ(bio, q));
    len = BIO_get_mem_data(bio, &bytes);
    text = strndup(bytes, (size_t)len);
    BIO_free(bio);
    X509_REQ_free(q);
    return text;
}

static char *ec_request(const char *curve)
{
    EVP_PKEY *key = EVP_EC_gen(curve);
    char *text = request(key, EVP_sha256());

    EVP_PKEY_free(key);
    return text;
}

static X509 *parse(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);

    BIO_free(bio);
    cr_assert(cert);
    return cert;
}

static X509 *sign(const struct ca *ca, int64_t seconds, time_t now)
{
    char *csr = ec_request("P-256"), *pem = NULL, error[256] = "";
    X509 *cert;

    cr_assert(ca_sign(ca, csr, strlen(csr), IDENTITY, seconds, now, &pem, error, sizeof(error)) == 0, "%s",
              error);
    cert = parse(pem);
    free(pem);
    free(csr);
    return cert;
}

static bool verifies(X509 *leaf, const char *root_pem, int purpose)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    X509 *root = parse(root_pem);
    bool good;

    cr_assert(X509_STORE_add_cert(store, root) && X509_STORE_CTX_init(ctx, store, leaf, NULL));
    X509_STORE_CTX_set_purpose(ctx, purpose);
    X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_X509_STRICT);
    good = X509_verify_cert(ctx) == 1;
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    X509_free(root);
    return good;
}

Test(ca, a_leaf)
{
    time_t now = time(NULL), begin = now - CA_SKEW_SECONDS - 1, end = now + 3600;
    struct ca *ca = open_ca(NULL);
    X509 *leaf = sign(ca, 3600, now);
    int critical = -1;
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, NULL);
    ASN1_IA5STRING *uri;
    int kind;

    cr_assert(names && sk_GENERAL_NAME_num(names) == 1 && critical == 1);
    uri = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, 0), &kind);
    cr_assert(kind == GEN_URI && !strcmp((const char *)ASN1_STRING_get0_data(uri), IDENTITY));
    cr_assert(X509_NAME_entry_count(X509_get_subject_name(leaf)) == 0);
    cr_assert(X509_cmp_time(X509_get0_notBefore(leaf), &begin) > 0);
    cr_assert(X509_cmp_time(X509_get0_notBefore(leaf), &now) < 0, "it begins before now");
    cr_assert(X509_cmp_time(X509_get0_notAfter(leaf), &now) > 0);
    end += 1;
    cr_assert(X509_cmp_time(X509_get0_notAfter(leaf), &end) < 0);
    cr_assert(X509_get_extended_key_usage(leaf) == (XKU_SSL_SERVER | XKU_SSL_CLIENT));
    cr_assert(!X509_check_ca(leaf));
    cr_assert(verifies(leaf, ca_root_pem(ca), X509_PURPOSE_SSL_CLIENT));
    cr_assert(verifies(leaf, ca_root_pem(ca), X509_PURPOSE_SSL_SERVER));
    GENERAL_NAMES_free(names);
    X509_free(leaf);
    ca_free(&ca);
}

Test(ca, validity)
{
    time_t now = time(NULL), day = now + CA_DEFAULT_SECONDS + 1, year = now + 365 * 24 * 3600;
    struct ca *ca = open_ca(NULL);
    X509 *leaf = sign(ca, 0, now);
    char *csr = ec_request("P-256"), *pem = NULL, error[256];

    cr_assert(X509_cmp_time(X509_get0_notAfter(leaf), &day) < 0);
    X509_free(leaf);
    X509_free(sign(ca, CA_MAX_SECONDS, now));
    cr_assert(ca_sign(ca, csr, strlen(csr), IDENTITY, CA_MAX_SECONDS + 1, now, &pem, error, sizeof(error)) ==
              -EINVAL);
    cr_assert(strstr(error, "90 days"), "%s", error);
    cr_assert(ca_sign(ca, csr, strlen(csr), IDENTITY, -1, now, &pem, error, sizeof(error)) == -EINVAL);
    cr_assert(ca_sign(ca, csr, strlen(csr), IDENTITY, INT64_MAX, now, &pem, error, sizeof(error)) == -EINVAL);
    /* Never beyond the root. */
    leaf = sign(ca, CA_MAX_SECONDS, ca_not_after(ca) - 3600);
    year = ca_not_after(ca) + 1;
    cr_assert(X509_cmp_time(X509_get0_notAfter(leaf), &year) < 0);
    X509_free(leaf);
    free(csr);
    ca_free(&ca);
}

static void refused(const struct ca *ca, const char *csr, size_t len, const char *why)
{
    char error[256] = "", *pem = NULL;
    int r = ca_sign(ca, csr, len, IDENTITY, 60, time(NULL), &pem, error, sizeof(error));

    cr_expect(r == -EINVAL && !pem, "%d for: %s", r, why);
    cr_expect(strstr(error, why), "says   %s\nwanted %s", error, why);
}

Test(ca, requests_that_are_refused)
{
    struct ca *ca = open_ca(NULL);
    EVP_PKEY *weak = EVP_RSA_gen(1024), *ed = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    char *good = ec_request("P-256"), *text, *huge = malloc(CA_CSR_MAX + 1);

    refused(ca, "", 0, "is empty");
    refused(ca, "garbage", 7, "is not a CERTIFICATE REQUEST in PEM");
    refused(ca, good, strlen(good) / 2, "is not a CERTIFICATE REQUEST in PEM");
    refused(ca, ca_root_pem(ca), strlen(ca_root_pem(ca)), "is not a CERTIFICATE REQUEST in PEM");
    memset(huge, 'A', CA_CSR_MAX + 1);
    refused(ca, huge, CA_CSR_MAX + 1, "is larger than 16384 bytes");
    text = ec_request("P-384");
    refused(ca, text, strlen(text), "an EC key must be one of P-256");
    free(text);
    text = request(weak, EVP_sha256());
    refused(ca, text, strlen(text), "an RSA key must have 2048 to 8192 bits");
    free(text);
    text = request(ed, NULL);
    refused(ca, text, strlen(text), "the key is neither EC P-256 nor RSA");
    free(text);
    EVP_PKEY_free(weak);
    EVP_PKEY_free(ed);
    free(good);
    free(huge);
    ca_free(&ca);
}

Test(ca, a_request_signed_by_another_key)
{
    EVP_PKEY *mine = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256");
    struct ca *ca = open_ca(NULL);
    X509_REQ *q = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    char *bytes;
    long len;

    cr_assert(X509_REQ_set_pubkey(q, other) && X509_REQ_sign(q, mine, EVP_sha256()));
    cr_assert(PEM_write_bio_X509_REQ(bio, q));
    len = BIO_get_mem_data(bio, &bytes);
    refused(ca, bytes, (size_t)len, "its signature is not that of its key");
    BIO_free(bio);
    X509_REQ_free(q);
    EVP_PKEY_free(mine);
    EVP_PKEY_free(other);
    ca_free(&ca);
}

Test(ca, rsa)
{
    EVP_PKEY *key = EVP_RSA_gen(2048);
    struct ca *ca = open_ca(NULL);
    char *csr = request(key, EVP_sha256()), *pem = NULL, error[256];

    cr_assert(ca_sign(ca, csr, strlen(csr), IDENTITY, 60, time(NULL), &pem, error, sizeof(error)) == 0);
    free(pem);
    free(csr);
    EVP_PKEY_free(key);
    ca_free(&ca);
}

Test(ca, the_next_start_has_the_same_key_and_root)
{
    struct ca *first = open_ca(NULL), *second;
    char path[128];
    struct stat st;

    second = open_ca(NULL);
    cr_assert(!strcmp(ca_root_pem(first), ca_root_pem(second)));
    snprintf(path, sizeof(path), "%s/ca-key.pem", directory);
    cr_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    snprintf(path, sizeof(path), "%s/root-cert.pem", directory);
    cr_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0644);
    ca_free(&second);
    /* Another trust domain is another root. */
    cr_assert(ca_open(directory, NULL, "example.org", &second) == 0);
    cr_assert(strcmp(ca_root_pem(first), ca_root_pem(second)) != 0);
    cr_assert(strstr(ca_subject(second), "example.org"));
    ca_free(&second);
    ca_free(&first);
}

Test(ca, nodes_with_one_key_trust_each_other)
{
    char key[128], other[] = "/tmp/bruma-ca-other-XXXXXX", path[128];
    struct ca *a = open_ca(NULL), *b, *stranger;
    X509 *leaf;

    snprintf(key, sizeof(key), "%s/ca-key.pem", directory);
    cr_assert(mkdtemp(other));
    cr_assert(ca_open(other, key, "cluster.local", &b) == 0);
    cr_assert(strcmp(ca_root_pem(a), ca_root_pem(b)) != 0, "each node signs its own root");
    leaf = sign(b, 60, time(NULL));
    cr_assert(verifies(leaf, ca_root_pem(a), X509_PURPOSE_SSL_CLIENT));
    X509_free(leaf);
    ca_free(&b);
    snprintf(path, sizeof(path), "%s/ca-key.pem", other);
    cr_assert(access(path, F_OK) < 0, "a given key is not copied");
    cr_assert(ca_open(other, NULL, "cluster.local", &stranger) == 0);
    leaf = sign(stranger, 60, time(NULL));
    cr_assert(!verifies(leaf, ca_root_pem(a), X509_PURPOSE_SSL_CLIENT));
    X509_free(leaf);
    ca_free(&stranger);
    ca_free(&a);
    unlink(path);
    snprintf(path, sizeof(path), "%s/root-cert.pem", other);
    unlink(path);
    rmdir(other);
}

Test(ca, keys_that_are_refused)
{
    static const char *const texts[] = {"", "garbage",
                                        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"};
    EVP_PKEY *wrong = EVP_EC_gen("P-384");
    struct ca *ca = NULL;
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/given.pem", directory);
    cr_assert(ca_open(directory, path, "cluster.local", &ca) == -ENOENT, "a given key is not made");
    for (size_t i = 0; i < 3; i++) {
        cr_assert(control_file_write(path, texts[i], strlen(texts[i]), 0600) == 0);
        cr_assert(ca_open(directory, path, "cluster.local", &ca) == -EINVAL);
    }
    f = fopen(path, "w");
    cr_assert(f && PEM_write_PrivateKey(f, wrong, NULL, NULL, 0, NULL, NULL) && fclose(f) == 0);
    cr_assert(ca_open(directory, path, "cluster.local", &ca) == -EINVAL);
    cr_assert(!ca);
    EVP_PKEY_free(wrong);
}

Test(ca, the_certificate_of_our_own_port)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
    struct ca *ca = open_ca(NULL);
    X509 *cert;

    cr_assert(ca_serve(ca, tls, time(NULL)) == 0);
    cr_assert(ca_serve(ca, tls, time(NULL)) == 0, "it can be renewed");
    cert = SSL_CTX_get0_certificate(tls);
    cr_assert(SSL_CTX_check_private_key(tls));
    cr_assert(X509_check_host(cert, "localhost", 0, 0, NULL) == 1);
    cr_assert(X509_check_ip_asc(cert, "127.0.0.1", 0) == 1);
    cr_assert(X509_check_ip_asc(cert, "::1", 0) == 1);
    cr_assert(verifies(cert, ca_root_pem(ca), X509_PURPOSE_SSL_SERVER));
    SSL_CTX_free(tls);
    ca_free(&ca);
}
