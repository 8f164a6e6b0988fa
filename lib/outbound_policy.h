/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of connections to destinations that the mesh does not know: outboundTrafficPolicy of Istio's
 * mesh configuration (istio.mesh.v1alpha1.MeshConfig). */
#ifndef LIB_OUTBOUND_POLICY_H
#define LIB_OUTBOUND_POLICY_H

#include <stddef.h>

/* Overrides a namespace's or the mesh's policy; of a pod or of a namespace. */
#define OUTBOUND_POLICY_ANNOTATION "bruma.io/outbound-traffic-policy"

enum outbound_policy {
    OUTBOUND_UNSAID,        /* somebody else says it */
    OUTBOUND_ALLOW_ANY,     /* they are passed through */
    OUTBOUND_REGISTRY_ONLY, /* they are refused */
};

/* A name or number of Istio's enum. 0, or -EINVAL for any other text. */
int outbound_policy_parse(const char *text, enum outbound_policy *ret);
/* Its name in Istio's enum, "" for UNSAID; a static text, never NULL. */
const char *outbound_policy_name(enum outbound_policy policy);

/* That of a whole mesh configuration (YAML), UNSAID where it says nothing. 0; -EBADMSG with a sentence in
 * error, or -ENOMEM. */
int outbound_policy_of_mesh(const char *yaml, size_t len, enum outbound_policy *ret, char *error,
                            size_t error_size);

#endif
