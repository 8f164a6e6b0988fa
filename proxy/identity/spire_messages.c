/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/spire_messages.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/spiffe.h"
#include "proxy/identity/der.h"

/* SubscribeToX509SVIDsResponse, its X509SVIDWithKey, X509SVID and SPIFFEID; SubscribeToX509BundlesResponse
 * and an entry of its map; the Workload API's X509SVIDResponse and X509SVID */
enum { SVIDS_SVID = 1, SVIDS_FEDERATES_WITH = 2 };
enum { WITH_KEY_SVID = 1, WITH_KEY_KEY = 2, SVID_CHAIN = 1, SVID_ID = 2, ID_TRUST_DOMAIN = 1, ID_PATH = 2 };
enum { BUNDLES_ENTRY = 1, ENTRY_KEY = 1, ENTRY_VALUE = 2 };
enum { WORKLOAD_SVID = 1, WORKLOAD_FEDERATED = 3 };
enum { WORKLOAD_ID = 1, WORKLOAD_CHAIN = 2, WORKLOAD_KEY = 3, WORKLOAD_BUNDLE = 4 };

#define SCHEME "spiffe://"

/* A field of bytes that may be missing. */
struct part {
    const uint8_t *bytes;
    size_t len;
};

static int fail(int r, const char *why, char *error, size_t size)
{
    snprintf(error, size, "%s", why);
    return r;
}

static int malformed(char *error, size_t size)
{
    return fail(-EBADMSG, "the message is malformed", error, size);
}

void spire_svid_clear(struct spire_svid *s)
{
    certificate_clear(&s->certificate);
    EVP_PKEY_free(s->key);
    for (size_t i = 0; i < s->federated_len; i++)
        free(s->federated[i]);
    *s = (struct spire_svid){};
}

/* The last field of each number in a message; numbers from 1. Others are not of interest. */
static int take_parts(struct part message, struct part *parts, size_t parts_len)
{
    struct wire_reader r = wire_reader(message.bytes, message.len);
    struct wire_field f;
    int more;

    memset(parts, 0, (parts_len + 1) * sizeof(*parts));
    while ((more = wire_next(&r, &f)) > 0) {
        if (f.type == WIRE_BYTES && f.number <= parts_len)
            parts[f.number] = (struct part){f.bytes, f.len};
    }
    return more;
}

static bool is(struct part p, const char *text, size_t len)
{
    return p.len == len && (!len || !memcmp(p.bytes, text, len));
}

/* "spiffe://near.domain", or without that, as a text of the caller's; NULL: neither, or no memory. */
static char *trust_domain_of(struct part p)
{
    size_t scheme = strlen(SCHEME);

    if (p.len > scheme && !memcmp(p.bytes, SCHEME, scheme))
        p = (struct part){p.bytes + scheme, p.len - scheme};
    if (!p.len || p.len >= SPIFFE_MAX || memchr(p.bytes, '\0', p.len) || memchr(p.bytes, '/', p.len))
        return NULL;
    return strndup((const char *)p.bytes, p.len);
}

static int add_federated(struct spire_svid *s, struct part name, char *error, size_t size)
{
    if (s->federated_len == BUNDLES_MAX)
        return fail(-E2BIG, "federated with too many trust domains", error, size);
    s->federated[s->federated_len] = trust_domain_of(name);
    if (!s->federated[s->federated_len])
        return fail(-EBADMSG, "a federated trust domain without a name", error, size);
    s->federated_len++;
    return 0;
}

/* ---- the identity's own ---- */

/* The certificates as the chain, and the key. */
static int take_svid(struct spire_svid *s, const STACK_OF(X509) * chain, struct part key, char *error,
                     size_t size)
{
    int r;

    if (!sk_X509_num(chain))
        return fail(-EBADMSG, "no certificate (DER)", error, size);
    r = der_key(key.bytes, key.len, &s->key, error, size);
    if (r < 0)
        return r;
    s->certificate.chain[0] = certificates_pem(chain);
    if (!s->certificate.chain[0])
        return fail(-ENOMEM, "out of memory", error, size);
    s->certificate.chain_len = 1;
    return 0;
}

/* Of a message that has been walked already. */
static int add_chain(struct part svid, STACK_OF(X509) * chain, char *error, size_t size)
{
    struct wire_reader r = wire_reader(svid.bytes, svid.len);
    struct wire_field f;
    int e = 0;

    while (e == 0 && wire_next(&r, &f) > 0) {
        if (f.number == SVID_CHAIN && f.type == WIRE_BYTES)
            e = der_certificates(f.bytes, f.len, CERTIFICATE_CHAIN_MAX, chain, error, size);
    }
    return e;
}

static bool names(const struct part id[3], const char *identity)
{
    size_t scheme = strlen(SCHEME), domain = id[ID_TRUST_DOMAIN].len;

    return !strncmp(identity, SCHEME, scheme) && strlen(identity) > scheme + domain &&
           identity[scheme + domain] == '/' && is(id[ID_TRUST_DOMAIN], identity + scheme, domain) &&
           is(id[ID_PATH], identity + scheme + domain, strlen(identity) - scheme - domain);
}

static int take_with_key(struct spire_svid *s, struct part message, const char *identity, char *error,
                         size_t size)
{
    struct part with_key[3], svid[3], id[3];
    STACK_OF(X509) * chain;
    int r;

    if (take_parts(message, with_key, 2) < 0 || take_parts(with_key[WITH_KEY_SVID], svid, 2) < 0 ||
        take_parts(svid[SVID_ID], id, 2) < 0)
        return malformed(error, size);
    if (s->key || !names(id, identity)) {
        s->others++;
        return 0;
    }
    chain = sk_X509_new_null();
    r = chain ? add_chain(with_key[WITH_KEY_SVID], chain, error, size)
              : fail(-ENOMEM, "out of memory", error, size);
    if (r == 0)
        r = take_svid(s, chain, with_key[WITH_KEY_KEY], error, size);
    sk_X509_pop_free(chain, X509_free);
    return r;
}

int spire_svids_decode(const uint8_t *message, size_t len, const char *identity, struct spire_svid *ret,
                       char *error, size_t error_size)
{
    struct wire_reader r = wire_reader(message, len);
    struct spire_svid s = {};
    struct wire_field f;
    int more = 0, e = 0;

    while (e == 0 && (more = wire_next(&r, &f)) > 0) {
        struct part p = {f.bytes, f.len};

        if (f.type != WIRE_BYTES)
            continue;
        if (f.number == SVIDS_SVID)
            e = take_with_key(&s, p, identity, error, error_size);
        else if (f.number == SVIDS_FEDERATES_WITH)
            e = add_federated(&s, p, error, error_size);
    }
    if (more < 0)
        e = malformed(error, error_size);
    if (e < 0)
        spire_svid_clear(&s);
    else
        *ret = s;
    return e;
}

/* ---- whom it trusts ---- */

/* A trust domain without any X.509 roots is as one that is not named. */
static int tell_bundle(struct part name, struct part der, spire_bundle_fn fn, void *data, char *error,
                       size_t size)
{
    char *trust_domain = trust_domain_of(name), why[100];
    STACK_OF(X509) *roots = trust_domain && der.len ? sk_X509_new_null() : NULL;
    int r = 0;

    if (!trust_domain) {
        r = fail(-EBADMSG, "a bundle of no trust domain", error, size);
    } else if (der.len && !roots) {
        r = fail(-ENOMEM, "out of memory", error, size);
    } else if (der.len) {
        if (der_certificates(der.bytes, der.len, SPIRE_BUNDLE_MAX, roots, why, sizeof(why)) < 0) {
            sk_X509_pop_free(roots, X509_free);
            roots = NULL;
        }
        r = fn(data, trust_domain, roots, why);
        if (r < 0)
            fail(r, r == -E2BIG ? "too many trust domains" : "out of memory", error, size);
    }
    free(trust_domain);
    return r;
}

static int tell_entry(struct part message, spire_bundle_fn fn, void *data, char *error, size_t size)
{
    struct part entry[3];

    if (take_parts(message, entry, 2) < 0)
        return malformed(error, size);
    return tell_bundle(entry[ENTRY_KEY], entry[ENTRY_VALUE], fn, data, error, size);
}

int spire_bundles_decode(const uint8_t *message, size_t len, spire_bundle_fn fn, void *data, char *error,
                         size_t error_size)
{
    struct wire_reader r = wire_reader(message, len);
    struct wire_field f;
    int more = 0, e = 0;

    while (e == 0 && (more = wire_next(&r, &f)) > 0) {
        if (f.number == BUNDLES_ENTRY && f.type == WIRE_BYTES)
            e = tell_entry((struct part){f.bytes, f.len}, fn, data, error, error_size);
    }
    return more < 0 ? malformed(error, error_size) : e;
}

/* ---- both ---- */

static int take_workload(struct spire_svid *s, struct part message, const char *identity, spire_bundle_fn fn,
                         void *data, char *error, size_t size)
{
    struct part svid[5];
    struct spiffe parts;
    STACK_OF(X509) * chain;
    int r;

    if (take_parts(message, svid, 4) < 0)
        return malformed(error, size);
    if (s->key || !is(svid[WORKLOAD_ID], identity, strlen(identity)) ||
        spiffe_parse(identity, strlen(identity), &parts) < 0) {
        s->others++;
        return 0;
    }
    chain = sk_X509_new_null();
    r = chain ? der_certificates(svid[WORKLOAD_CHAIN].bytes, svid[WORKLOAD_CHAIN].len, CERTIFICATE_CHAIN_MAX,
                                 chain, error, size)
              : fail(-ENOMEM, "out of memory", error, size);
    if (r == 0)
        r = take_svid(s, chain, svid[WORKLOAD_KEY], error, size);
    sk_X509_pop_free(chain, X509_free);
    return r < 0 ? r
                 : tell_bundle((struct part){(const uint8_t *)parts.trust_domain, parts.trust_domain_len},
                               svid[WORKLOAD_BUNDLE], fn, data, error, size);
}

int spire_workload_decode(const uint8_t *message, size_t len, const char *identity, struct spire_svid *ret,
                          spire_bundle_fn fn, void *data, char *error, size_t error_size)
{
    struct wire_reader r = wire_reader(message, len);
    struct spire_svid s = {};
    struct wire_field f;
    int more = 0, e = 0;

    while (e == 0 && (more = wire_next(&r, &f)) > 0) {
        struct part p = {f.bytes, f.len}, entry[3];

        if (f.type != WIRE_BYTES)
            continue;
        if (f.number == WORKLOAD_SVID)
            e = take_workload(&s, p, identity, fn, data, error, error_size);
        else if (f.number == WORKLOAD_FEDERATED && take_parts(p, entry, 2) < 0)
            e = malformed(error, error_size);
        else if (f.number == WORKLOAD_FEDERATED)
            e = add_federated(&s, entry[ENTRY_KEY], error, error_size);
        if (e == 0 && f.number == WORKLOAD_FEDERATED)
            e = tell_entry(p, fn, data, error, error_size);
    }
    if (more < 0)
        e = malformed(error, error_size);
    if (e < 0)
        spire_svid_clear(&s);
    else
        *ret = s;
    return e;
}
