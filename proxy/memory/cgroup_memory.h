/* SPDX-License-Identifier: Apache-2.0 */
/* What the process's cgroup lets it have. */
#ifndef PROXY_MEMORY_CGROUP_MEMORY_H
#define PROXY_MEMORY_CGROUP_MEMORY_H

/* Bytes that the process may use: the least limit of its cgroup and those above it, of either version; 0:
 * there is none. */
unsigned long cgroup_memory_limit(void);

#endif
