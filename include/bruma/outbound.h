/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What becomes of a connection that a pod of the mesh opens to somebody else: the one decision, for the
 * connect hook in the kernel and for the proxy. Its inputs are tables that the agent and the control plane
 * fill; who lacks one (the proxy: what is excluded has not reached it; the hook: what the mesh knows) passes
 * the value that leaves the decision to the other.
 */
#ifndef BRUMA_OUTBOUND_H
#define BRUMA_OUTBOUND_H

/* What the pod's annotations say of an address or a port. The numbers are in pinned maps. */
enum bruma_exclusion {
    BRUMA_EXCLUSION_NONE = 0, /* nothing, so that a lost entry fails closed: it is captured */
    BRUMA_EXCLUDED = 1,
    BRUMA_NOT_INCLUDED = 2, /* others are named that shall be captured, and it is not among them */
    BRUMA_INCLUDED = 3,
};

/* What becomes of the connection. */
enum bruma_outbound {
    BRUMA_OUTBOUND_MESH,     /* to the proxy, which finds a way through the mesh */
    BRUMA_OUTBOUND_OUTSIDE,  /* the mesh does not know the destination: as it is */
    BRUMA_OUTBOUND_REFUSED,  /* the same, and such are refused (REGISTRY_ONLY) */
    BRUMA_OUTBOUND_EXCLUDED, /* not captured, whatever the mesh knows */
};

/* As istio-iptables orders its rules: excluded ports and ranges, then included ports, then included
 * ranges. range: by the longest prefix. known: the mesh knows the destination. */
static inline enum bruma_outbound bruma_outbound_decide(enum bruma_exclusion range, enum bruma_exclusion port,
                                                        int known, int registry_only)
{
    if (range == BRUMA_EXCLUDED || port == BRUMA_EXCLUDED)
        return BRUMA_OUTBOUND_EXCLUDED;
    if (range == BRUMA_NOT_INCLUDED && port != BRUMA_INCLUDED)
        return BRUMA_OUTBOUND_EXCLUDED;
    if (known)
        return BRUMA_OUTBOUND_MESH;
    return registry_only ? BRUMA_OUTBOUND_REFUSED : BRUMA_OUTBOUND_OUTSIDE;
}

#endif
