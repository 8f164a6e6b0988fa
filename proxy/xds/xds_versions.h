/* SPDX-License-Identifier: Apache-2.0 */
/* Which version of each resource is held: what the first request of a new stream tells the control plane. */
#ifndef PROXY_XDS_XDS_VERSIONS_H
#define PROXY_XDS_XDS_VERSIONS_H

#include <stdbool.h>
#include <stddef.h>

struct xds_versions;

/* None is held. 0 or -ENOMEM. */
int xds_versions_new(struct xds_versions **ret);
void xds_versions_free(struct xds_versions **versions);
/* Sets or replaces. 0, -ENOMEM, or -EINVAL for a name or version of more than 65535 bytes. */
int xds_versions_set(struct xds_versions *versions, const char *name, size_t name_len, const char *version,
                     size_t version_len);
/* It is held no more; harmless if it was not. */
void xds_versions_remove(struct xds_versions *versions, const char *name, size_t name_len);
/* Whether it is held. */
bool xds_versions_has(const struct xds_versions *versions, const char *name, size_t name_len);
/* How many are held. */
size_t xds_versions_count(const struct xds_versions *versions);

/* Offers each to the control plane: each() is called before this returns, on its thread. Those for which
 * each() returns false are unsent: it will not say that they are gone, so what its answer does not mention is
 * to be swept out. */
void xds_versions_each(struct xds_versions *versions,
                       bool (*each)(void *data, const char *name, size_t name_len, const char *version,
                                    size_t version_len),
                       void *data);
/* How many are unsent. */
size_t xds_versions_unsent(const struct xds_versions *versions);
/* The control plane has spoken of it. */
void xds_versions_mention(struct xds_versions *versions, const char *name, size_t name_len);
/* Removes all that are unsent still, and calls gone for each before it returns; name has no NUL at its end.
 * On the calling thread. */
void xds_versions_sweep(struct xds_versions *versions,
                        void (*gone)(void *data, const char *name, size_t name_len), void *data);

#endif
