/* SPDX-License-Identifier: Apache-2.0 */
/* Which roots are good for a peer. */
#include <string.h>

#include "proxy/tls/tls.h"

/* The roots of a federated trust domain speak for that one alone, and nobody else's for it. */
const struct bundle *tls_context_bundle(const struct tls_context *context, const char *trust_domain,
                                        size_t len)
{
    if (strlen(context->trust_domain) == len && !memcmp(context->trust_domain, trust_domain, len))
        return NULL;
    return bundles_find(context->federated, trust_domain, len);
}

bool tls_is_stranger(const struct tls_context *context, const struct trust_domains *aliases,
                     const struct spiffe *peer)
{
    const char *own = context->trust_domain;

    return context->own_domain_only &&
           !tls_context_bundle(context, peer->trust_domain, peer->trust_domain_len) &&
           !trust_domains_same(aliases, own, peer->trust_domain, peer->trust_domain_len, own, strlen(own));
}

bool tls_peer_trusted(const struct tls *tls, const struct tls_context *now)
{
    const struct tls_context *then = tls->context;
    const struct bundle *old, *new;
    struct spiffe s;

    if (spiffe_parse(tls->peer_identity, strlen(tls->peer_identity), &s) < 0)
        return true;
    new = tls_context_bundle(now, s.trust_domain, s.trust_domain_len);
    /* Of a tunnel that has just come from another process it is not known. */
    old = then ? tls_context_bundle(then, s.trust_domain, s.trust_domain_len) : new;
    if (!old && !new)
        return !tls_is_stranger(now, tls->buffers->trust_domains, &s);
    return old == new || (old && new && !memcmp(old->digest, new->digest, sizeof(old->digest)));
}
