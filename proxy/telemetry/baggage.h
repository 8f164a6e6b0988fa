/* SPDX-License-Identifier: Apache-2.0 */
/* The "baggage" header of tunnels (contract section 3.6): what a proxy says of its workload. It is trusted
 * for telemetry only. baggage_format() is in telemetry.h. */
#ifndef PROXY_TELEMETRY_BAGGAGE_H
#define PROXY_TELEMETRY_BAGGAGE_H

#include <stdbool.h>

#define BAGGAGE_VALUE_MAX 256 /* bytes with the NUL; longer values are cut */

enum baggage_key {
    BAGGAGE_CLUSTER,
    BAGGAGE_NAMESPACE,
    BAGGAGE_WORKLOAD,
    BAGGAGE_SERVICE,
    BAGGAGE_REVISION,
    BAGGAGE_REGION,
    BAGGAGE_ZONE,
    BAGGAGE_KEYS
};

struct baggage {
    char values[BAGGAGE_KEYS][BAGGAGE_VALUE_MAX]; /* "" if absent */
};

/* Takes any text, and fills ret whole; what it does not understand is skipped. Several header lines are
 * joined with commas before. */
void baggage_parse(const char *text, struct baggage *ret);

struct flow;

/* What the flow's baggage says of its peer, if the peer's verified identity vouches for it: it is of the
 * namespace that the baggage names. What else is in there is the peer's word about a workload of its own
 * namespace. False: there is none, or it is not to be believed, and what ret holds means nothing. */
bool baggage_vouched(const struct flow *flow, struct baggage *ret);

#endif
