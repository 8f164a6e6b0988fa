/* SPDX-License-Identifier: Apache-2.0 */
/* What an identity is given of what SPIRE's agent has sent: certificate and bundles come apart. */
#ifndef PROXY_IDENTITY_SPIRE_ISSUE_H
#define PROXY_IDENTITY_SPIRE_ISSUE_H

#include "bruma/reasons.h"
#include "proxy/identity/identity_source.h"
#include "proxy/identity/spire_messages.h"

/*
 * The certificate (chain alone) and its key, with the roots of the identity's trust domain and of those that
 * svid is federated with, as they are in bundles (NULL: none have come), and checked. 0 and *ret is the
 * caller's; -EBADMSG with reason and error.
 */
int spire_issue(const char *uri, const struct certificate *own, EVP_PKEY *key, const struct spire_svid *svid,
                const struct bundles *bundles, struct issued *ret, enum bruma_reason *reason, char *error,
                size_t error_size);
/* Whether they are the same, whatever their keys. */
bool spire_issue_same(const struct issued *a, const struct issued *b);

#endif
