/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/verify.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/reasons.h"
#include "lib/spiffe.h"
#include "lib/wall.h"
#include "proxy/route/route.h"
#include "proxy/tls/crl.h"
#include "proxy/tls/tls.h"

#define CACHE_ENTRIES          256 /* a power of two */
#define CACHE_VALIDITY_SECONDS 600

/*
 * A node meets the same few certificates again and again, and the chain's signature is half of what verifying
 * costs. An entry holds for what the answer depends on: the leaf, the peer's role (a certificate may be good
 * for a server only), the roots and the revocation lists; for ten minutes, and never beyond the end of any
 * certificate of the chain. Proof of the private key is part of every handshake and is not concerned.
 */
struct verified_key {
    unsigned char leaf[32], roots[32];
    uint64_t lists;     /* the generation of the revocation lists; 0: none are configured */
    uint64_t of_client; /* the peer's role; wide, so that no byte of the key is padding */
};

struct verified_entry {
    struct verified_key key;
    int64_t since, until;   /* wall seconds; until 0: empty */
    int64_t chain_until;    /* the first end of a certificate of the chain */
    STACK_OF(X509) * chain; /* as verified; NULL without lists */
};

struct verified_cache {
    struct verified_entry entries[CACHE_ENTRIES];
};

struct verified_cache *verified_cache_new(void)
{
    return calloc(1, sizeof(struct verified_cache));
}

static void forget(struct verified_entry *entry)
{
    sk_X509_pop_free(entry->chain, X509_free);
    memset(entry, 0, sizeof(*entry));
}

void verified_cache_free(struct verified_cache *cache)
{
    for (size_t i = 0; cache && i < CACHE_ENTRIES; i++)
        forget(&cache->entries[i]);
    free(cache);
}

static struct verified_entry *cache_slot(struct verified_cache *cache, const struct verified_key *key)
{
    unsigned slot = (unsigned)(key->leaf[0] | key->leaf[1] << 8) ^ (unsigned)key->of_client;

    return &cache->entries[slot & (CACHE_ENTRIES - 1)];
}

/* INT64_MIN for what is no date. */
static int64_t end_of(const X509 *cert)
{
    struct tm tm;

    return ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) ? (int64_t)timegm(&tm) : INT64_MIN;
}

static int64_t first_end(STACK_OF(X509) * chain)
{
    int64_t end = INT64_MAX;

    for (int i = 0; i < sk_X509_num(chain); i++) {
        int64_t one = end_of(sk_X509_value(chain, i));

        end = one < end ? one : end;
    }
    return end;
}

static int make_key(const struct tls *tls, X509 *leaf, const unsigned char *roots, struct verified_key *ret)
{
    unsigned len = 0;

    memset(ret, 0, sizeof(*ret));
    if (!X509_digest(leaf, EVP_sha256(), ret->leaf, &len) || len != sizeof(ret->leaf))
        return -EIO;
    memcpy(ret->roots, roots, sizeof(ret->roots));
    ret->lists = tls->buffers->revoked ? crl_generation(tls->buffers->revoked) : 0;
    ret->of_client = tls->server;
    return 0;
}

/* The chain is kept with the connection where lists are configured: later ones may speak of it. */
static bool keep_chain(struct tls *tls, STACK_OF(X509) * chain)
{
    sk_X509_pop_free(tls->peer_chain, X509_free);
    tls->peer_chain = tls->buffers->revoked ? X509_chain_up_ref(chain) : NULL;
    return tls->peer_chain || !tls->buffers->revoked;
}

static int verify_chain(struct tls *tls, X509_STORE_CTX *store_context, int64_t now,
                        struct verified_entry *entry)
{
    STACK_OF(X509) * chain;

    if (X509_verify_cert(store_context) != 1)
        return X509_STORE_CTX_get_error(store_context);
    chain = X509_STORE_CTX_get0_chain(store_context);
    if (!keep_chain(tls, chain))
        return X509_V_ERR_OUT_OF_MEM;
    if (tls_peer_revoked(tls))
        return X509_V_ERR_CERT_REVOKED;
    entry->since = now;
    entry->chain_until = first_end(chain);
    entry->until =
        entry->chain_until < now + CACHE_VALIDITY_SECONDS ? entry->chain_until : now + CACHE_VALIDITY_SECONDS;
    entry->chain = tls->peer_chain ? X509_chain_up_ref(tls->peer_chain) : NULL;
    return X509_V_OK;
}

/* A clock that was set back may have left the beginning of a certificate before it. */
static bool holds(const struct verified_entry *entry, const struct verified_key *key, int64_t now)
{
    return entry->since <= now && now < entry->until && !memcmp(&entry->key, key, sizeof(*key)) &&
           (!key->lists || entry->chain);
}

/* federated: the roots that are asked instead of the own ones; NULL: these. */
static bool chain_verifies(struct tls *tls, X509_STORE_CTX *store_context, X509 *leaf,
                           const struct bundle *federated)
{
    const unsigned char *roots = federated ? federated->digest : tls->context->roots_digest;
    struct verified_entry *entry, fresh = {};
    int64_t now = wall_seconds();
    int error = X509_V_OK;

    if (tls->buffers->revoked && crl_missing(tls->buffers->revoked)) {
        X509_STORE_CTX_set_error(store_context, X509_V_ERR_UNABLE_TO_GET_CRL);
        return false;
    }
    if (make_key(tls, leaf, roots, &fresh.key) < 0) {
        X509_STORE_CTX_set_error(store_context, X509_V_ERR_UNSPECIFIED);
        return false;
    }
    entry = cache_slot(tls->buffers->verified, &fresh.key);
    if (holds(entry, &fresh.key, now)) {
        if (!keep_chain(tls, entry->chain))
            error = X509_V_ERR_OUT_OF_MEM;
    } else {
        if (federated)
            X509_STORE_CTX_set0_trusted_stack(store_context, federated->roots);
        error = verify_chain(tls, store_context, now, &fresh);
        if (error == X509_V_OK) {
            forget(entry);
            *entry = fresh;
        }
    }
    X509_STORE_CTX_set_error(store_context, error);
    if (error == X509_V_OK) {
        tls->peer_until = entry->chain_until;
        tls->lists = fresh.key.lists;
    }
    return error == X509_V_OK;
}

static bool same_trust_domain(const struct tls *tls, const struct spiffe *s)
{
    const char *own = tls->context->trust_domain;

    return trust_domains_same(tls->buffers->trust_domains, own, s->trust_domain, s->trust_domain_len, own,
                              strlen(own));
}

/* What a peer says that it is. */
struct peer_name {
    GENERAL_NAMES *names;
    const char *uri; /* the last one, in names; not NUL-terminated */
    size_t len;
    int count;
    bool valid;           /* uri is a SPIFFE identity, of which these are the parts */
    struct spiffe spiffe; /* in uri */
};

/* A certificate is of one identity: it has one URI among its names, and that is it. */
static struct peer_name name_of(X509 *leaf)
{
    struct peer_name n = {.names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL)};

    for (int i = 0; n.names && i < sk_GENERAL_NAME_num(n.names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(n.names, i);

        if (name->type != GEN_URI)
            continue;
        n.uri = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
        n.len = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier);
        n.count++;
    }
    n.valid = n.count && spiffe_parse(n.uri, n.len, &n.spiffe) == 0;
    return n;
}

static void keep_name(struct tls *tls, const struct peer_name *n)
{
    if (!n->valid)
        return;
    memcpy(tls->peer_identity, n->uri, n->len);
    tls->peer_identity[n->len] = '\0';
}

static enum bruma_reason check_name(struct tls *tls, const struct peer_name *n, bool federated)
{
    keep_name(tls, n);
    /* One reader could take it for the one, and the next for the other. */
    if (n->count > 1)
        return BRUMA_REASON_PEER_IDENTITY_AMBIGUOUS;
    if (!n->valid)
        return BRUMA_REASON_PEER_IDENTITY_MISMATCH;
    if (tls->server)
        return federated || same_trust_domain(tls, &n->spiffe) ? BRUMA_REASON_NONE
                                                               : BRUMA_REASON_PEER_TRUST_DOMAIN;
    return route_expects(tls->expected.upstream, tls->expected.service, tls->buffers->trust_domains,
                         tls->context->trust_domain, tls->peer_identity)
               ? BRUMA_REASON_NONE
               : BRUMA_REASON_PEER_IDENTITY_MISMATCH;
}

static void untrusted(struct tls *tls, X509_STORE_CTX *store_context)
{
    int error = X509_STORE_CTX_get_error(store_context);

    tls->reason = error == X509_V_ERR_CERT_REVOKED        ? BRUMA_REASON_CERTIFICATE_REVOKED
                  : error == X509_V_ERR_UNABLE_TO_GET_CRL ? BRUMA_REASON_REVOCATION_UNKNOWN
                                                          : BRUMA_REASON_PEER_UNTRUSTED;
    snprintf(tls->error, sizeof(tls->error), "peer certificate: %s", X509_verify_cert_error_string(error));
}

static void say_refused(struct tls *tls)
{
    const char *identity = tls->peer_identity[0] ? tls->peer_identity : "none";

    if (tls->reason == BRUMA_REASON_PEER_IDENTITY_AMBIGUOUS)
        snprintf(tls->error, sizeof(tls->error),
                 "peer certificate: more than one URI name, %.150s among them", identity);
    else if (tls->server || tls->reason == BRUMA_REASON_PEER_TRUST_DOMAIN)
        snprintf(tls->error, sizeof(tls->error), "%s identity %.90s, own trust domain %.40s",
                 tls->server ? "client" : "server", identity, tls->context->trust_domain);
    else
        snprintf(tls->error, sizeof(tls->error), "server identity %.70s, expected %.70s", identity,
                 tls->expected.upstream ? tls->expected.upstream->identity : "none");
    tls->peer_identity[0] = '\0';
}

int verify_peer(X509_STORE_CTX *store_context, void *unused)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store_context, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls *tls = SSL_get_app_data(ssl);
    X509 *leaf = X509_STORE_CTX_get0_cert(store_context);
    struct peer_name name = {};
    const struct bundle *federated = NULL;
    bool good = true;

    (void)unused;
    if (leaf) {
        name = name_of(leaf);
        if (name.valid && name.count == 1)
            federated =
                tls_context_bundle(tls->context, name.spiffe.trust_domain, name.spiffe.trust_domain_len);
    }
    if (leaf && name.valid && name.count == 1 &&
        tls_is_stranger(tls->context, tls->buffers->trust_domains, &name.spiffe)) {
        /* nobody's roots are for it: to refuse it by its name needs no signature */
        keep_name(tls, &name);
        tls->reason = BRUMA_REASON_PEER_TRUST_DOMAIN;
    } else if (leaf && chain_verifies(tls, store_context, leaf, federated)) {
        tls->reason = check_name(tls, &name, federated);
    } else {
        untrusted(tls, store_context);
        good = false;
    }
    if (good && tls->reason != BRUMA_REASON_NONE) {
        say_refused(tls);
        X509_STORE_CTX_set_error(store_context, X509_V_ERR_APPLICATION_VERIFICATION);
        good = false;
    }
    GENERAL_NAMES_free(name.names);
    return good;
}
