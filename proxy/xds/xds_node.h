/* SPDX-License-Identifier: Apache-2.0 */
/* Who we are to the control plane: the Node of the first request (contract 1.7). */
#ifndef PROXY_XDS_XDS_NODE_H
#define PROXY_XDS_XDS_NODE_H

#include "proxy/wire/wire.h"
#include "proxy/xds/xds_client.h"

/* Writes the fields of envoy.config.core.v3.Node; metadata from the configuration, ISTIO_META_* and
 * ISTIO_METAJSON_*. */
void xds_node_write(struct wire_writer *writer, const struct xds_config *config);

#endif
