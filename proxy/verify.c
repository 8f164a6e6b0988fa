/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/verify.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/route.h"
#include "proxy/tls.h"
#include "reasons.h"
#include "spiffe.h"

#define CACHE_ENTRIES          256 /* a power of two */
#define CACHE_VALIDITY_SECONDS 600

/*
 * A node meets the same few certificates again and again, and the chain's signature is half of what verifying
 * costs. An entry holds for one context (so for one set of roots), for ten minutes, and never beyond the
 * certificate's own end. Proof of the private key is part of every handshake and is not concerned.
 */
struct verified_entry {
    unsigned char digest[32];
    uint64_t context_serial; /* 0: empty */
    time_t until;
};

struct verified_cache {
    struct verified_entry entries[CACHE_ENTRIES];
};

struct verified_cache *verified_cache_new(void)
{
    return calloc(1, sizeof(struct verified_cache));
}

void verified_cache_free(struct verified_cache *cache)
{
    free(cache);
}

static time_t end_of(X509 *cert)
{
    struct tm tm;

    return ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) ? timegm(&tm) : 0;
}

static struct verified_entry *cache_slot(struct verified_cache *cache, const unsigned char *digest)
{
    unsigned slot = (unsigned)(digest[0] | digest[1] << 8) & (CACHE_ENTRIES - 1);

    return &cache->entries[slot];
}

/* With revocation lists the whole chain is looked at each time, and kept for later lists. */
static bool chain_verifies_with_lists(struct tls *tls, X509_STORE_CTX *store_context)
{
    if (X509_verify_cert(store_context) != 1)
        return false;
    sk_X509_pop_free(tls->peer_chain, X509_free);
    tls->peer_chain = X509_STORE_CTX_get1_chain(store_context);
    if (!tls->peer_chain) {
        X509_STORE_CTX_set_error(store_context, X509_V_ERR_OUT_OF_MEM);
        return false;
    }
    if (!tls_peer_revoked(tls))
        return true;
    X509_STORE_CTX_set_error(store_context, X509_V_ERR_CERT_REVOKED);
    return false;
}

static bool chain_verifies(struct tls *tls, X509_STORE_CTX *store_context, X509 *leaf)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    struct verified_entry *entry;
    unsigned len = 0;
    time_t now = time(NULL), end;

    if (tls->buffers->revoked)
        return chain_verifies_with_lists(tls, store_context);
    if (!X509_digest(leaf, EVP_sha256(), digest, &len) || len != sizeof(entry->digest))
        return false;
    entry = cache_slot(tls->buffers->verified, digest);
    if (entry->context_serial == tls->context->serial && now < entry->until &&
        !memcmp(entry->digest, digest, len)) {
        X509_STORE_CTX_set_error(store_context, X509_V_OK);
        return true;
    }
    if (X509_verify_cert(store_context) != 1)
        return false;
    end = end_of(leaf);
    memcpy(entry->digest, digest, len);
    entry->context_serial = tls->context->serial;
    entry->until = end < now + CACHE_VALIDITY_SECONDS ? end : now + CACHE_VALIDITY_SECONDS;
    return true;
}

static bool same_trust_domain(const struct tls *tls, const struct spiffe *s)
{
    return s->trust_domain_len == strlen(tls->context->trust_domain) &&
           !memcmp(s->trust_domain, tls->context->trust_domain, s->trust_domain_len);
}

/* A certificate is of one identity: it has one URI among its names, and that is it. The text is the last
 * one's. */
static int uri_names(const GENERAL_NAMES *names, const char **ret_uri, size_t *ret_len)
{
    int count = 0;

    for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        if (name->type != GEN_URI)
            continue;
        *ret_uri = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
        *ret_len = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier);
        count++;
    }
    return count;
}

static enum bruma_reason check_name(struct tls *tls, const GENERAL_NAMES *names)
{
    const char *uri = NULL;
    struct spiffe s;
    size_t len = 0;
    int count = uri_names(names, &uri, &len);

    bool valid = count && spiffe_parse(uri, len, &s) == 0;

    if (valid) {
        memcpy(tls->peer_identity, uri, len);
        tls->peer_identity[len] = '\0';
    }
    /* One reader could take it for the one, and the next for the other. */
    if (count > 1)
        return BRUMA_REASON_PEER_IDENTITY_AMBIGUOUS;
    if (!valid)
        return BRUMA_REASON_PEER_IDENTITY_MISMATCH;
    if (tls->server)
        return same_trust_domain(tls, &s) ? BRUMA_REASON_NONE : BRUMA_REASON_PEER_TRUST_DOMAIN;
    return route_expects(tls->expected.upstream, tls->expected.service, tls->peer_identity)
               ? BRUMA_REASON_NONE
               : BRUMA_REASON_PEER_IDENTITY_MISMATCH;
}

static enum bruma_reason check_identity(struct tls *tls, X509 *leaf)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
    enum bruma_reason reason = check_name(tls, names);

    GENERAL_NAMES_free(names);
    return reason;
}

int verify_peer(X509_STORE_CTX *store_context, void *unused)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store_context, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls *tls = SSL_get_app_data(ssl);
    X509 *leaf = X509_STORE_CTX_get0_cert(store_context);

    (void)unused;
    if (!leaf || !chain_verifies(tls, store_context, leaf)) {
        int error = X509_STORE_CTX_get_error(store_context);

        tls->reason =
            error == X509_V_ERR_CERT_REVOKED ? BRUMA_REASON_CERTIFICATE_REVOKED : BRUMA_REASON_PEER_UNTRUSTED;
        snprintf(tls->error, sizeof(tls->error), "peer certificate: %s",
                 X509_verify_cert_error_string(error));
        return 0;
    }
    tls->reason = check_identity(tls, leaf);
    if (tls->reason != BRUMA_REASON_NONE) {
        const char *identity = tls->peer_identity[0] ? tls->peer_identity : "none";

        if (tls->reason == BRUMA_REASON_PEER_IDENTITY_AMBIGUOUS)
            snprintf(tls->error, sizeof(tls->error),
                     "peer certificate: more than one URI name, %.150s among them", identity);
        else if (tls->server)
            snprintf(tls->error, sizeof(tls->error), "client identity %.90s, own trust domain %.40s",
                     identity, tls->context->trust_domain);
        else
            snprintf(tls->error, sizeof(tls->error), "server identity %.70s, expected %.70s", identity,
                     tls->expected.upstream ? tls->expected.upstream->identity : "none");
        X509_STORE_CTX_set_error(store_context, X509_V_ERR_APPLICATION_VERIFICATION);
        tls->peer_identity[0] = '\0';
        return 0;
    }
    return 1;
}
