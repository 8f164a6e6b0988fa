/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/ca.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/control_plane/control_files.h"
#include "lib/cleanup.h"
#include "lib/file.h"

#define LOG_SCOPE "ca"
#include "lib/log.h"

#define DAY             86400
#define ROOT_DAYS       3650
#define ROOT_SPARE_DAYS 365 /* a root with less left is made anew at the next start */
#define SERVER_DAYS     30
#define KEY_NAME        "ca-key.pem"
#define ROOT_NAME       "root-cert.pem"
#define PEM_FILE_MAX    (64 * 1024)

struct ca {
    EVP_PKEY *key;
    X509 *root;
    char *root_pem;
    char root_path[512];
    char trust_domain[256];
    char subject[256];
    time_t not_after;
};

static void free_key(EVP_PKEY **p)
{
    EVP_PKEY_free(*p);
}

static void free_cert(X509 **p)
{
    X509_free(*p);
}

static void free_request(X509_REQ **p)
{
    X509_REQ_free(*p);
}

static void free_bio(BIO **p)
{
    BIO_free(*p);
}

#define _cleanup_key_     cleanup(free_key)
#define _cleanup_cert_    cleanup(free_cert)
#define _cleanup_request_ cleanup(free_request)
#define _cleanup_bio_     cleanup(free_bio)

/* The oldest error says most; the queue is empty afterwards. */
static const char *openssl_error(char buf[160])
{
    unsigned long e = ERR_get_error();

    snprintf(buf, 160, "%s", e && ERR_reason_error_string(e) ? ERR_reason_error_string(e) : "unknown");
    ERR_clear_error();
    return buf;
}

static int failed(const char *what)
{
    char buf[160];

    log_error("%s\terror=\"%s\"", what, openssl_error(buf));
    return -EIO;
}

static bool is_p256(const EVP_PKEY *key)
{
    char group[64];
    size_t len;

    return EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_group_name(key, group, sizeof(group), &len) == 1 &&
           !strcmp(group, "prime256v1");
}

static int pem_of(int (*write)(BIO *bio, const void *object), const void *object, char **ret)
{
    _cleanup_bio_ BIO *bio = BIO_new(BIO_s_mem());
    char *bytes, *text;
    long len;

    if (!bio || write(bio, object) != 1)
        return -ENOMEM;
    len = BIO_get_mem_data(bio, &bytes);
    text = len > 0 ? strndup(bytes, (size_t)len) : NULL;
    if (!text)
        return -ENOMEM;
    *ret = text;
    return 0;
}

static int write_cert(BIO *bio, const void *cert)
{
    return PEM_write_bio_X509(bio, cert);
}

static int write_key(BIO *bio, const void *key)
{
    return PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
}

/* ---- the key and the root ---- */

static int parse_key(const char *path, const char *text, size_t len, EVP_PKEY **ret)
{
    _cleanup_bio_ BIO *bio = BIO_new_mem_buf(text, (int)len);
    _cleanup_key_ EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)"") : NULL;

    ERR_clear_error();
    if (!key || !is_p256(key)) {
        log_error("the CA's key is not an ECDSA P-256 private key in PEM\tpath=%s", path);
        return -EINVAL;
    }
    *ret = take_pointer(key);
    return 0;
}

static int load_or_make_key(const char *directory, const char *key_file, EVP_PKEY **ret)
{
    _cleanup_key_ EVP_PKEY *key = NULL;
    _cleanup_free_ char *text = NULL;
    char path[512];
    size_t len;
    int r;

    if (key_file)
        snprintf(path, sizeof(path), "%s", key_file);
    else
        snprintf(path, sizeof(path), "%s/%s", directory, KEY_NAME);
    r = file_read(AT_FDCWD, path, 0, PEM_FILE_MAX, &text, &len);
    if (r == 0) {
        r = parse_key(path, text, len, ret);
        OPENSSL_cleanse(text, len);
        return r;
    }
    if (key_file || r != -ENOENT)
        return log_error_errno(r, "the CA's key cannot be read\tpath=%s", path);

    key = EVP_EC_gen("P-256");
    if (!key || pem_of(write_key, key, &text) < 0)
        return failed("no key for the CA");
    r = control_file_write(path, text, strlen(text), 0600);
    OPENSSL_cleanse(text, strlen(text));
    if (r < 0)
        return log_error_errno(r, "the CA's key cannot be written\tpath=%s", path);
    log_info("a key for the CA was made\tpath=%s", path);
    *ret = take_pointer(key);
    return 0;
}

static int add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509_EXTENSION *e;
    X509V3_CTX context;
    int r;

    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    if (!e)
        return 0;
    r = X509_add_ext(cert, e, -1);
    X509_EXTENSION_free(e);
    return r;
}

/* Not through the text form above: there a comma in the name would begin another entry. */
static int add_uri(X509 *cert, const char *uri)
{
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();
    int ok = names && name && text && ASN1_STRING_set(text, uri, -1);

    if (ok) {
        GENERAL_NAME_set0_value(name, GEN_URI, text);
        text = NULL;
        ok = sk_GENERAL_NAME_push(names, name) > 0;
        if (ok)
            name = NULL;
    }
    ok = ok && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 1, X509V3_ADD_DEFAULT) == 1;
    ASN1_IA5STRING_free(text);
    GENERAL_NAME_free(name);
    sk_GENERAL_NAME_pop_free(names, GENERAL_NAME_free);
    return ok;
}

/* Version, serial number, validity, key: what every certificate here has. issuer NULL: itself. */
static X509 *new_cert(EVP_PKEY *key, const X509 *issuer, time_t not_before, time_t not_after)
{
    _cleanup_cert_ X509 *cert = X509_new();
    uint8_t serial[16];
    BIGNUM *n;
    int ok;

    if (!cert || RAND_bytes(serial, sizeof(serial)) != 1)
        return NULL;
    serial[0] &= 0x7f; /* positive */
    serial[0] |= 0x40; /* and always of the same length */
    n = BN_bin2bn(serial, sizeof(serial), NULL);
    ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
    BN_free(n);
    if (!ok || !X509_set_version(cert, X509_VERSION_3) ||
        !ASN1_TIME_set(X509_getm_notBefore(cert), not_before) ||
        !ASN1_TIME_set(X509_getm_notAfter(cert), not_after) || !X509_set_pubkey(cert, key) ||
        (issuer && !X509_set_issuer_name(cert, X509_get_subject_name(issuer))))
        return NULL;
    return take_pointer(cert);
}

/* It begins with the clock, where that of a machine may be after its next start. */
static X509 *make_root(EVP_PKEY *key, const char *trust_domain, time_t now)
{
    _cleanup_cert_ X509 *cert = new_cert(key, NULL, now < DAY ? now - DAY : 0, now + (time_t)ROOT_DAYS * DAY);
    X509_NAME *name = cert ? X509_get_subject_name(cert) : NULL;

    if (!name ||
        !X509_NAME_add_entry_by_txt(name, "O", MBSTRING_UTF8, (const unsigned char *)trust_domain, -1, -1,
                                    0) ||
        !X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"Bruma root", -1, -1,
                                    0) ||
        !X509_set_issuer_name(cert, name) ||
        !add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE") ||
        !add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(cert, cert, NID_subject_key_identifier, "hash") || !X509_sign(cert, key, EVP_sha256()))
        return NULL;
    return take_pointer(cert);
}

/* What is good by a clock that is set now is not by one that was set to another year. */
static bool root_is_good(X509 *root, time_t now)
{
    time_t spare = now + (time_t)ROOT_SPARE_DAYS * DAY;

    return X509_cmp_time(X509_get0_notBefore(root), &now) < 0 &&
           X509_cmp_time(X509_get0_notAfter(root), &spare) > 0;
}

/* The root of an earlier start, if it is still what we would make now. */
static X509 *load_root(const char *path, EVP_PKEY *key, const char *trust_domain, time_t now)
{
    _cleanup_free_ char *text = NULL;
    _cleanup_bio_ BIO *bio = NULL;
    _cleanup_cert_ X509 *cert = NULL;
    char organization[256];
    size_t len;

    if (file_read(AT_FDCWD, path, 0, PEM_FILE_MAX, &text, &len) < 0)
        return NULL;
    bio = BIO_new_mem_buf(text, (int)len);
    cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    ERR_clear_error();
    if (!cert || X509_verify(cert, key) != 1 ||
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_organizationName, organization,
                                  sizeof(organization)) < 0 ||
        strcmp(organization, trust_domain) != 0 || !root_is_good(cert, now)) {
        ERR_clear_error();
        return NULL;
    }
    return take_pointer(cert);
}

static int use_root(struct ca *ca, X509 *root)
{
    _cleanup_free_ char *pem = NULL;
    struct tm end;

    if (pem_of(write_cert, root, &pem) < 0 || ASN1_TIME_to_tm(X509_get0_notAfter(root), &end) != 1)
        return failed("no root for the CA");
    X509_free(ca->root);
    free(ca->root_pem);
    X509_up_ref(root);
    ca->root = root;
    ca->root_pem = take_pointer(pem);
    ca->not_after = timegm(&end);
    X509_NAME_oneline(X509_get_subject_name(root), ca->subject, sizeof(ca->subject));
    return 0;
}

static int new_root(struct ca *ca, time_t now)
{
    _cleanup_cert_ X509 *root = make_root(ca->key, ca->trust_domain, now);
    int r = root ? use_root(ca, root) : failed("no root for the CA");

    if (r < 0)
        return r;
    r = control_file_write(ca->root_path, ca->root_pem, strlen(ca->root_pem), 0644);
    if (r < 0)
        return log_error_errno(r, "the CA's root cannot be written\tpath=%s", ca->root_path);
    log_info("a root for the CA was made\tpath=%s subject=\"%s\"", ca->root_path, ca->subject);
    return 0;
}

static int open_root(struct ca *ca)
{
    time_t now = time(NULL);
    _cleanup_cert_ X509 *root = load_root(ca->root_path, ca->key, ca->trust_domain, now);

    return root ? use_root(ca, root) : new_root(ca, now);
}

int ca_renew(struct ca *ca, time_t now)
{
    int r;

    if (root_is_good(ca->root, now))
        return 0;
    r = new_root(ca, now);
    return r < 0 ? r : 1;
}

int ca_open(const char *directory, const char *key_file, const char *trust_domain, struct ca **ret)
{
    struct ca *ca = calloc(1, sizeof(*ca));
    int r;

    if (!ca)
        return -ENOMEM;
    snprintf(ca->root_path, sizeof(ca->root_path), "%s/%s", directory, ROOT_NAME);
    snprintf(ca->trust_domain, sizeof(ca->trust_domain), "%s", trust_domain);
    r = load_or_make_key(directory, key_file, &ca->key);
    if (r == 0)
        r = open_root(ca);
    if (r < 0) {
        ca_free(&ca);
        return r;
    }
    *ret = ca;
    return 0;
}

void ca_free(struct ca **ca)
{
    if (!*ca)
        return;
    EVP_PKEY_free((*ca)->key);
    X509_free((*ca)->root);
    free((*ca)->root_pem);
    free(*ca);
    *ca = NULL;
}

const char *ca_root_pem(const struct ca *ca)
{
    return ca->root_pem;
}

const char *ca_subject(const struct ca *ca)
{
    return ca->subject;
}

time_t ca_not_after(const struct ca *ca)
{
    return ca->not_after;
}

/* ---- leaves ---- */

/* A sentence about the key if it is not to be signed, else NULL. */
static const char *key_fault(const EVP_PKEY *key)
{
    int bits = EVP_PKEY_get_bits(key);

    if (EVP_PKEY_is_a(key, "RSA"))
        return bits >= 2048 && bits <= 8192 ? NULL : "an RSA key must have 2048 to 8192 bits";
    if (EVP_PKEY_is_a(key, "EC"))
        return is_p256(key) ? NULL : "an EC key must be one of P-256";
    return "the key is neither EC P-256 nor RSA";
}

static int blame(char *error, size_t error_size, const char *text)
{
    snprintf(error, error_size, "certificate request: %s", text);
    return -EINVAL;
}

static int parse_csr(const char *csr, size_t len, X509_REQ **ret, char *error, size_t error_size)
{
    _cleanup_request_ X509_REQ *request = NULL;
    _cleanup_bio_ BIO *bio = NULL;
    const char *fault;
    EVP_PKEY *key;
    int verified;

    if (!len)
        return blame(error, error_size, "is empty");
    if (len > CA_CSR_MAX)
        return blame(error, error_size, "is larger than 16384 bytes");
    bio = BIO_new_mem_buf(csr, (int)len);
    if (!bio)
        return -ENOMEM;
    request = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
    ERR_clear_error();
    if (!request)
        return blame(error, error_size, "is not a CERTIFICATE REQUEST in PEM");
    key = X509_REQ_get0_pubkey(request);
    fault = key ? key_fault(key) : "its key cannot be read";
    if (fault) {
        ERR_clear_error();
        return blame(error, error_size, fault);
    }
    verified = X509_REQ_verify(request, key);
    ERR_clear_error();
    if (verified != 1)
        return blame(error, error_size, "its signature is not that of its key");
    *ret = take_pointer(request);
    return 0;
}

/* names: for add_extension(), or NULL and a URI. */
static X509 *make_leaf(const struct ca *ca, EVP_PKEY *key, const char *names, const char *uri,
                       time_t not_before, time_t not_after)
{
    _cleanup_cert_ X509 *cert = new_cert(key, ca->root, not_before, not_after);

    if (!cert || !(uri ? add_uri(cert, uri) : add_extension(cert, ca->root, NID_subject_alt_name, names)) ||
        !add_extension(cert, ca->root, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(cert, ca->root, NID_key_usage, "critical,digitalSignature,keyEncipherment") ||
        !add_extension(cert, ca->root, NID_ext_key_usage, "serverAuth,clientAuth") ||
        !add_extension(cert, ca->root, NID_authority_key_identifier, "keyid:always") ||
        !X509_sign(cert, ca->key, EVP_sha256()))
        return NULL;
    return take_pointer(cert);
}

int ca_sign(const struct ca *ca, const char *csr, size_t csr_len, const char *identity, int64_t seconds,
            time_t now, char **ret_pem, char *error, size_t error_size)
{
    _cleanup_request_ X509_REQ *request = NULL;
    _cleanup_cert_ X509 *leaf = NULL;
    time_t not_after;
    int r;

    if (seconds < 0 || seconds > CA_MAX_SECONDS) {
        snprintf(error, error_size,
                 "a lifetime of %lld seconds was requested; it must be 1 second to 90 days",
                 (long long)seconds);
        return -EINVAL;
    }
    r = parse_csr(csr, csr_len, &request, error, error_size);
    if (r < 0)
        return r;
    not_after = now + (seconds ? (time_t)seconds : CA_DEFAULT_SECONDS);
    if (not_after > ca->not_after)
        not_after = ca->not_after;
    leaf = make_leaf(ca, X509_REQ_get0_pubkey(request), NULL, identity, now - CA_SKEW_SECONDS, not_after);
    if (!leaf)
        return failed("a certificate could not be made");
    return pem_of(write_cert, leaf, ret_pem);
}

int ca_serve(const struct ca *ca, SSL_CTX *tls, time_t now)
{
    _cleanup_key_ EVP_PKEY *key = EVP_EC_gen("P-256");
    _cleanup_cert_ X509 *cert = key ? make_leaf(ca, key, "critical,DNS:localhost,IP:127.0.0.1,IP:::1", NULL,
                                                now - CA_SKEW_SECONDS, now + (time_t)SERVER_DAYS * DAY)
                                    : NULL;

    /* The certificate first: it would be refused beside the key of the one before. */
    if (!cert || SSL_CTX_use_cert_and_key(tls, cert, key, NULL, 1) != 1)
        return failed("no certificate for the control plane's own port");
    return 0;
}
