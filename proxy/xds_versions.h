/* SPDX-License-Identifier: Apache-2.0 */
/* Which version of each resource is held: what the first request of a new stream tells the control plane. */
#ifndef PROXY_XDS_VERSIONS_H
#define PROXY_XDS_VERSIONS_H

#include <stddef.h>

struct xds_versions;

int xds_versions_new(struct xds_versions **ret);
void xds_versions_free(struct xds_versions **versions);
/* Sets or replaces. 0 or -ENOMEM. */
int xds_versions_set(struct xds_versions *versions, const char *name, size_t name_len, const char *version,
                     size_t version_len);
void xds_versions_remove(struct xds_versions *versions, const char *name, size_t name_len);
size_t xds_versions_count(const struct xds_versions *versions);
void xds_versions_each(const struct xds_versions *versions,
                       void (*fn)(void *data, const char *name, size_t name_len, const char *version,
                                  size_t version_len),
                       void *data);

#endif
