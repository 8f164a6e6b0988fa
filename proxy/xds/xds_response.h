/* SPDX-License-Identifier: Apache-2.0 */
/* What the control plane sends: DeltaDiscoveryResponse (contract 1.6), into struct state. Control thread. */
#ifndef PROXY_XDS_XDS_RESPONSE_H
#define PROXY_XDS_XDS_RESPONSE_H

#include "proxy/state/state.h"
#include "proxy/wire/wire.h"
#include "proxy/xds/xds_versions.h"

/* Which type it is of; STATE_TYPES: one that is not known here. */
enum state_type xds_response_type(const struct wire_field *url);

struct xds_response {
    enum state_type type;
    struct state *state;
    struct xds_versions *versions; /* of that type */
    uint64_t *bytes;               /* of resources, added up */
};

/* Takes what can be used of it, and commits. nack: a text, "" before; what cannot be used is named there. */
void xds_response_take(const struct xds_response *response, const uint8_t *message, size_t len, char *nack,
                       size_t nack_size);

#endif
