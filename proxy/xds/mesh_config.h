/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of Istio's mesh configuration that a node proxy takes settings from (contract section 10): the
 * YAML file ./etc/istio/config/mesh, below defaultConfig, and over it the environment's PROXY_CONFIG; and the
 * file's outboundTrafficPolicy and trustDomainAliases.
 */
#ifndef PROXY_XDS_MESH_CONFIG_H
#define PROXY_XDS_MESH_CONFIG_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "lib/outbound_policy.h"

#define MESH_CONFIG_FILE "etc/istio/config/mesh"
#define MESH_CONFIG_MAX  (1024 * 1024) /* bytes */

/* NULL: not given. */
struct mesh_config {
    char *discovery_address, *admin_port, *stats_port, *concurrency;
    enum outbound_policy outbound_policy; /* of the file; UNSAID: it says nothing */
    char *trust_domain_aliases;           /* with commas between them */
    cJSON *metadata; /* proxyMetadata: strings by name, "ISTIO_META_" taken off; never NULL after a load */
};

/*
 * file: path, which need not exist; proxy_config: YAML text or NULL. Whatever is not understood but is YAML
 * is passed over, since the file is for others too. 0, or -EBADMSG with a sentence that says where; -errno if
 * the file cannot be read. Nothing is to be freed after a failure.
 */
int mesh_config_load(const char *file, const char *proxy_config, struct mesh_config *ret, char *error,
                     size_t error_size);
/* Frees what a load has filled, and empties it. */
void mesh_config_free(struct mesh_config *config);

#endif
