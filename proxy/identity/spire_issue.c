/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/spire_issue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/spiffe.h"
#include "proxy/identity/der.h"

/* Of the trust domains that it is federated with, as far as they have come. */
static struct bundles *federated(const struct spire_svid *svid, const struct bundles *bundles)
{
    struct bundles *set = bundles_new();

    for (size_t i = 0; set && i < svid->federated_len; i++) {
        const char *name = svid->federated[i];
        const struct bundle *b = bundles_find(bundles, name, strlen(name));

        if (b && bundles_put(set, name, X509_chain_up_ref(b->roots)) < 0) {
            bundles_unref(set);
            set = NULL;
        }
    }
    return set;
}

/* All of them in one text. */
static char *chain_of(const struct certificate *c)
{
    size_t size = 1;
    char *text, *at;

    for (size_t i = 0; i < c->chain_len; i++)
        size += strlen(c->chain[i]);
    text = at = malloc(size);
    for (size_t i = 0; text && i < c->chain_len; i++)
        at = stpcpy(at, c->chain[i]);
    return text;
}

static const struct bundle *own_bundle(const char *uri, const struct bundles *bundles)
{
    struct spiffe s;

    return spiffe_parse(uri, strlen(uri), &s) < 0 ? NULL
                                                  : bundles_find(bundles, s.trust_domain, s.trust_domain_len);
}

int spire_issue(const char *uri, const struct certificate *own, EVP_PKEY *key, const struct spire_svid *svid,
                const struct bundles *bundles, struct issued *ret, enum bruma_reason *reason, char *error,
                size_t error_size)
{
    const struct bundle *roots = own_bundle(uri, bundles);
    struct issued issued = {};

    *reason = BRUMA_REASON_BUNDLE_INVALID;
    if (!roots) {
        snprintf(error, error_size, "the agent has sent no bundle of the identity's trust domain");
        return -EBADMSG;
    }
    *reason = BRUMA_REASON_SVID_INVALID;
    issued.certificate.chain[0] = chain_of(own);
    issued.certificate.chain_len = issued.certificate.chain[0] != NULL;
    issued.certificate.roots = certificates_pem(roots->roots);
    issued.federated = federated(svid, bundles);
    issued.key = EVP_PKEY_up_ref(key) ? key : NULL;
    if (!issued.certificate.chain_len || !issued.certificate.roots || !issued.federated || !issued.key) {
        *reason = BRUMA_REASON_OUT_OF_RESOURCES;
        snprintf(error, error_size, "out of memory");
    } else if (certificate_check(&issued.certificate, uri, issued.key, error, error_size) == 0) {
        *ret = issued;
        return 0;
    }
    issued_clear(&issued);
    return -EBADMSG;
}

bool spire_issue_same(const struct issued *a, const struct issued *b)
{
    return a->certificate.chain_len == 1 && b->certificate.chain_len == 1 &&
           !strcmp(a->certificate.chain[0], b->certificate.chain[0]) &&
           !strcmp(a->certificate.roots, b->certificate.roots) && bundles_same(a->federated, b->federated);
}
