/* SPDX-License-Identifier: Apache-2.0 */
/* The annotations by which pods with sidecars exclude traffic from capture, read and turned into tables. */
#ifndef AGENT_ENROLL_EXCLUSION_RULES_H
#define AGENT_ENROLL_EXCLUSION_RULES_H

#include <stdbool.h>

#include "agent/steer/exclusions.h"

enum exclusion_annotation {
    EXCLUDE_OUTBOUND_RANGES,
    INCLUDE_OUTBOUND_RANGES,
    EXCLUDE_OUTBOUND_PORTS,
    INCLUDE_OUTBOUND_PORTS,
    EXCLUDE_INBOUND_PORTS,
    INCLUDE_INBOUND_PORTS,
    EXCLUSION_ANNOTATIONS
};

/* The annotation's key: a static text, never NULL. */
static inline const char *exclusion_annotation_key(enum exclusion_annotation annotation)
{
    static const char *const keys[EXCLUSION_ANNOTATIONS] = {
        [EXCLUDE_OUTBOUND_RANGES] = "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        [INCLUDE_OUTBOUND_RANGES] = "traffic.sidecar.istio.io/includeOutboundIPRanges",
        [EXCLUDE_OUTBOUND_PORTS] = "traffic.sidecar.istio.io/excludeOutboundPorts",
        [INCLUDE_OUTBOUND_PORTS] = "traffic.sidecar.istio.io/includeOutboundPorts",
        [EXCLUDE_INBOUND_PORTS] = "traffic.sidecar.istio.io/excludeInboundPorts",
        [INCLUDE_INBOUND_PORTS] = "traffic.sidecar.istio.io/includeInboundPorts",
    };

    return keys[annotation];
}

/*
 * texts: values by enum exclusion_annotation, NULL for those that are not there. A value that cannot be used
 * counts as one that is not there, so that it excludes nothing, and the first of them is told in wrong, ""
 * else. *ret is NULL if nothing is excluded; else the caller frees it. 0 or -ENOMEM.
 */
int exclusion_rules_parse(const char *const texts[EXCLUSION_ANNOTATIONS], struct steer_exclusions **ret,
                          char *wrong, size_t wrong_size);
/* The same rules; either may be NULL. */
bool exclusion_rules_equal(const struct steer_exclusions *a, const struct steer_exclusions *b);

#endif
