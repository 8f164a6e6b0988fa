/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/tls_context.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lib/tls_policy.h"
#include "proxy/tls/resumption.h"
#include "proxy/tls/tls.h"
#include "proxy/tls/verify.h"

static const unsigned char alpn[] = {2, 'h', '2'};

/* A client that offers protocols without h2 is refused; one that offers none is accepted. */
static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                       unsigned in_len, void *unused)
{
    (void)ssl;
    (void)unused;
    for (unsigned i = 0; i + 1 <= in_len && i + 1 + in[i] <= in_len; i += in[i] + 1u) {
        if (in[i] == 2 && !memcmp(in + i + 1, "h2", 2)) {
            *out = in + i + 1;
            *out_len = 2;
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int openssl_failure(const char *what, char *error, size_t error_size)
{
    unsigned long e = ERR_get_error();
    const char *text = e ? ERR_reason_error_string(e) : NULL;

    snprintf(error, error_size, "%s: %s", what, text ? text : "not usable");
    ERR_clear_error();
    return -EINVAL;
}

/* Calls take(certificate) for each certificate of a PEM text; take owns it. Returns how many, or -EINVAL. */
static int each_certificate(const char *pem, int (*take)(void *data, X509 *cert), void *data)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    int count = 0;
    X509 *cert;

    if (!bio)
        return -ENOMEM;
    while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        if (take(data, cert) < 0) {
            BIO_free(bio);
            return -EINVAL;
        }
        count++;
    }
    ERR_clear_error(); /* the end of the text is an error to OpenSSL */
    BIO_free(bio);
    return count;
}

struct roots {
    X509_STORE *store;
    EVP_MD_CTX *digest;
};

static int take_root(void *data, X509 *cert)
{
    unsigned char one[EVP_MAX_MD_SIZE];
    struct roots *roots = data;
    unsigned len = 0;
    int ok = X509_STORE_add_cert(roots->store, cert) && X509_digest(cert, EVP_sha256(), one, &len) &&
             EVP_DigestUpdate(roots->digest, one, len);

    X509_free(cert);
    return ok ? 0 : -EINVAL;
}

/* Returns how many there are, or -errno. */
static int fill_roots(struct tls_context *t, const char *const *roots_pem, size_t roots_len, char *error,
                      size_t error_size)
{
    struct roots roots = {.store = X509_STORE_new(), .digest = EVP_MD_CTX_new()};
    unsigned len = sizeof(t->roots_digest);
    int count = 0, n = 0;

    t->roots = roots.store;
    if (!roots.store || !roots.digest || !EVP_DigestInit_ex(roots.digest, EVP_sha256(), NULL))
        n = -ENOMEM;
    /* What the CA names as root is trusted as it is, also where somebody else has signed it. */
    if (n == 0 && !X509_STORE_set_flags(roots.store, X509_V_FLAG_PARTIAL_CHAIN))
        n = -ENOMEM;
    for (size_t i = 0; n >= 0 && i < roots_len; i++) {
        n = each_certificate(roots_pem[i], take_root, &roots);
        count += n;
    }
    if (n >= 0 && !EVP_DigestFinal_ex(roots.digest, t->roots_digest, &len))
        n = -ENOMEM;
    EVP_MD_CTX_free(roots.digest);
    return n < 0 ? openssl_failure("root certificate", error, error_size) : count;
}

struct own_chain {
    struct tls_context *context;
    SSL_CTX *contexts[2];
    bool leaf_done;
};

static bool narrow_validity(struct tls_context *t, const X509 *cert)
{
    struct tm from, to;

    if (!ASN1_TIME_to_tm(X509_get0_notBefore(cert), &from) || !ASN1_TIME_to_tm(X509_get0_notAfter(cert), &to))
        return false;
    if (t->not_before < timegm(&from))
        t->not_before = timegm(&from);
    if (t->not_after > timegm(&to))
        t->not_after = timegm(&to);
    return true;
}

static int take_own(void *data, X509 *cert)
{
    struct own_chain *chain = data;
    bool ok = narrow_validity(chain->context, cert);
    unsigned len = sizeof(chain->context->leaf_digest);

    if (!chain->leaf_done)
        ok = ok && X509_digest(cert, EVP_sha256(), chain->context->leaf_digest, &len);
    for (int i = 0; i < 2; i++) {
        if (!chain->leaf_done) {
            ok = ok && SSL_CTX_use_certificate(chain->contexts[i], cert) == 1;
        } else {
            X509_up_ref(cert);
            ok = ok && SSL_CTX_add_extra_chain_cert(chain->contexts[i], cert) == 1;
        }
    }
    chain->leaf_done = true;
    X509_free(cert);
    return ok ? 0 : -EINVAL;
}

static SSL_CTX *new_context(const SSL_METHOD *method, X509_STORE *roots, bool server)
{
    SSL_CTX *c = SSL_CTX_new(method);

    if (!c)
        return NULL;
    if (tls_policy_apply(c) < 0 || tls_resumption_prepare(c, server) < 0) {
        SSL_CTX_free(c);
        return NULL;
    }
    SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_ANTI_REPLAY);
    SSL_CTX_set_num_tickets(c, 0);
    /* Without it OpenSSL looks for our own chain in the store at each handshake, and sends the root along. */
    SSL_CTX_set_mode(c, SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set1_cert_store(c, roots);
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | (server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
    SSL_CTX_set_cert_verify_callback(c, verify_peer, NULL);
    SSL_CTX_set_keylog_callback(c, tls_take_secret);
    if (server)
        SSL_CTX_set_alpn_select_cb(c, select_alpn, NULL);
    else
        SSL_CTX_set_alpn_protos(c, alpn, sizeof(alpn));
    return c;
}

/* NULL: it does not verify, or there is no memory for it. */
static STACK_OF(X509) * verified_chain(const struct tls_context *t)
{
    X509 *leaf = SSL_CTX_get0_certificate(t->client);
    X509_STORE_CTX *store_context = X509_STORE_CTX_new();
    STACK_OF(X509) *extra = NULL, *chain = NULL;

    SSL_CTX_get_extra_chain_certs(t->client, &extra);
    if (store_context && X509_STORE_CTX_init(store_context, t->roots, leaf, extra) &&
        X509_check_purpose(leaf, X509_PURPOSE_SSL_CLIENT, 0) == 1 &&
        X509_check_purpose(leaf, X509_PURPOSE_SSL_SERVER, 0) == 1) {
        X509_STORE_CTX_set_flags(store_context, X509_V_FLAG_NO_CHECK_TIME);
        if (X509_verify_cert(store_context) == 1)
            chain = X509_STORE_CTX_get1_chain(store_context);
    }
    X509_STORE_CTX_free(store_context);
    ERR_clear_error();
    return chain;
}

/* The order of the bundles does not matter. */
static int digest_trust(struct tls_context *t)
{
    unsigned char sum[32] = {0}, one[32] = {0};
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx != NULL;

    for (size_t i = 0; ok && t->federated && i < t->federated->len; i++) {
        const struct bundle *b = &t->federated->items[i];

        ok = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) &&
             EVP_DigestUpdate(ctx, b->trust_domain, strlen(b->trust_domain) + 1) &&
             EVP_DigestUpdate(ctx, b->digest, sizeof(b->digest)) && EVP_DigestFinal_ex(ctx, one, NULL);
        for (size_t k = 0; k < sizeof(sum); k++)
            sum[k] ^= one[k];
    }
    ok = ok && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) &&
         EVP_DigestUpdate(ctx, t->roots_digest, sizeof(t->roots_digest)) &&
         EVP_DigestUpdate(ctx, sum, sizeof(sum)) &&
         EVP_DigestUpdate(ctx, &t->own_domain_only, sizeof(t->own_domain_only)) &&
         EVP_DigestFinal_ex(ctx, t->trust_digest, NULL);
    EVP_MD_CTX_free(ctx);
    return ok ? 0 : -ENOMEM;
}

static int fill(struct tls_context *t, EVP_PKEY *key, const char *const *chain_pem, size_t chain_len,
                const char *const *roots_pem, size_t roots_len, char *error, size_t error_size)
{
    struct own_chain chain = {.context = t};
    int roots = fill_roots(t, roots_pem, roots_len, error, error_size);

    if (roots < 0)
        return roots;
    if (!roots) {
        snprintf(error, error_size, "no root certificate");
        return -EINVAL;
    }
    t->client = new_context(TLS_client_method(), t->roots, false);
    t->server = new_context(TLS_server_method(), t->roots, true);
    if (!t->client || !t->server)
        return openssl_failure("TLS context", error, error_size);
    chain.contexts[0] = t->client;
    chain.contexts[1] = t->server;
    for (size_t i = 0; i < chain_len; i++) {
        if (each_certificate(chain_pem[i], take_own, &chain) <= 0)
            return openssl_failure("certificate chain", error, error_size);
    }
    if (!chain.leaf_done) {
        snprintf(error, error_size, "empty certificate chain");
        return -EINVAL;
    }
    for (int i = 0; i < 2; i++) {
        if (SSL_CTX_use_PrivateKey(chain.contexts[i], key) != 1 ||
            SSL_CTX_check_private_key(chain.contexts[i]) != 1)
            return openssl_failure("private key", error, error_size);
    }
    t->chain = verified_chain(t);
    return digest_trust(t);
}

int tls_context_new(const char *identity, EVP_PKEY *key, const char *const *chain_pem, size_t chain_len,
                    const char *const *roots_pem, size_t roots_len, struct tls_context **ret, char *error,
                    size_t error_size)
{
    static atomic_uint_fast64_t serials;
    struct tls_context *t;
    struct spiffe s;
    int r;

    if (spiffe_parse(identity, strlen(identity), &s) < 0) {
        snprintf(error, error_size, "\"%.100s\" is not a SPIFFE identity", identity);
        return -EINVAL;
    }
    t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->references = 1;
    t->not_before = INT64_MIN;
    t->not_after = INT64_MAX;
    t->serial = atomic_fetch_add(&serials, 1) + 1;
    memcpy(t->identity, identity, strlen(identity) + 1);
    memcpy(t->trust_domain, s.trust_domain, s.trust_domain_len);
    r = fill(t, key, chain_pem, chain_len, roots_pem, roots_len, error, error_size);
    if (r < 0) {
        tls_context_unref(t);
        return r;
    }
    *ret = t;
    return 0;
}

int tls_context_federate(struct tls_context *context, struct bundles *federated, bool own_domain_only)
{
    bundles_unref(context->federated);
    context->federated = bundles_ref(federated);
    context->own_domain_only = own_domain_only;
    return digest_trust(context);
}

struct tls_context *tls_context_ref(struct tls_context *context)
{
    __atomic_add_fetch(&context->references, 1, __ATOMIC_RELAXED);
    return context;
}

void tls_context_unref(struct tls_context *context)
{
    if (!context || __atomic_sub_fetch(&context->references, 1, __ATOMIC_ACQ_REL))
        return;
    SSL_CTX_free(context->client);
    SSL_CTX_free(context->server);
    X509_STORE_free(context->roots);
    bundles_unref(context->federated);
    sk_X509_pop_free(context->chain, X509_free);
    free(context);
}
