/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "identity"
#include "proxy/identity/spire_trust.h"

#include <errno.h>
#include <string.h>

#include "lib/log.h"
#include "lib/reasons.h"

int spire_trust_begin(struct spire_trust *t)
{
    t->bad = 0;
    t->next = bundles_new();
    return t->next ? 0 : -ENOMEM;
}

int spire_trust_put(void *data, const char *trust_domain, STACK_OF(X509) * roots, const char *error)
{
    struct spire_trust *t = data;
    const struct bundle *last = bundles_find(t->bundles, trust_domain, strlen(trust_domain));

    if (roots)
        return bundles_put(t->next, trust_domain, roots);
    t->bad++;
    log_error("SPIRE's bundle of a trust domain cannot be used; %s\ttrust_domain=\"%s\" reason=\"%s\" "
              "error=\"%s\"",
              last ? "the last one stays in force" : "its identities are refused", trust_domain,
              reason_name(BRUMA_REASON_BUNDLE_INVALID), error);
    return last ? bundles_put(t->next, trust_domain, X509_chain_up_ref(last->roots)) : 0;
}

bool spire_trust_end(struct spire_trust *t, bool good)
{
    bool changed = good && (!t->bundles || !bundles_same(t->bundles, t->next));

    if (changed) {
        bundles_unref(t->bundles);
        t->bundles = t->next;
    } else {
        bundles_unref(t->next);
    }
    t->next = NULL;
    return changed;
}

void spire_trust_clear(struct spire_trust *t)
{
    bundles_unref(t->bundles);
    bundles_unref(t->next);
    *t = (struct spire_trust){};
}
