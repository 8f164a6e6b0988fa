/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workloads, services and policies that the proxy is given as YAML, beside those of the control plane or
 * instead of them (LOCAL_XDS_PATH and LOCAL_XDS, contract section 10.1). Loaded once. The form is that of the
 * mesh file; what the control plane says under the same name counts.
 */
#ifndef PROXY_XDS_LOCAL_XDS_H
#define PROXY_XDS_LOCAL_XDS_H

#include <stddef.h>

struct state;

/* "" : not given. Not both, which who reads the settings has seen to. */
struct local_xds {
    const char *path, *text;
    const char *trust_domain; /* of workloads that name none */
};

/* Applies it all, and commits; nothing if none is given. 0, or -errno with a sentence in error that begins
 * with the variable's name: then nothing has been committed. The writer's thread. */
int local_xds_load(struct state *state, const struct local_xds *local, char *error, size_t error_size);

#endif
