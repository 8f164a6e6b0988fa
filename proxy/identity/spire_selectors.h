/* SPDX-License-Identifier: Apache-2.0 */
/* By which SPIRE knows a pod: "k8s:ns:{namespace} k8s:sa:{account} k8s:pod-uid:{pod-uid}". */
#ifndef PROXY_IDENTITY_SPIRE_SELECTORS_H
#define PROXY_IDENTITY_SPIRE_SELECTORS_H

#include <stddef.h>

#include "proxy/wire/wire.h"

#define SPIRE_SELECTORS_MAX 16  /* selectors in the setting */
#define SPIRE_UIDS_MAX      256 /* pods of one identity on this node that are named; any of them will do */

/* UIDs of the pods that have an identity. Zeroed is none; they point elsewhere. */
struct spire_uids {
    const char *items[SPIRE_UIDS_MAX];
    size_t len;
};

/* Whether the setting is a list of TYPE:VALUE, with commas or blanks between them, and nothing else in braces
 * than {trust-domain}, {namespace}, {account} and {pod-uid}. 0, or -EINVAL with what is wrong in error. */
int spire_selectors_check(const char *setting, char *error, size_t error_size);
/* Appends SubscribeToX509SVIDsRequest. A selector with {pod-uid} is put once for each. setting has been
 * checked. 0; -EINVAL for an identity that is none; -ENODATA, where no selector is left; or -ENOMEM. */
int spire_selectors_put(const char *setting, const char *uri, const struct spire_uids *uids,
                        struct wire_writer *ret);

#endif
