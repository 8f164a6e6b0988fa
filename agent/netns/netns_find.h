/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the network namespaces of pods that run already and that no CNI call has named: in the result cache
 * of the CNI library, else by asking the container runtime (CRI), else by the control groups of processes.
 * Whatever says so, a namespace is only taken if it holds an address of the pod: names, files and addresses
 * are used again.
 */
#ifndef AGENT_NETNS_NETNS_FIND_H
#define AGENT_NETNS_NETNS_FIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bruma/maps.h"
#include "lib/addr.h"

struct netns_find_config {
    const char *cni_cache;  /* directory with "results"; NULL: not looked at */
    const char *cri_socket; /* NULL: not asked */
    const char *proc;       /* the node's /proc */
};

/* A pod that is looked for, and what was found. */
struct netns_wanted {
    char uid[129]; /* that the runtime knows */
    char key[129]; /* the caller's own */
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;

    int fd; /* -1: not found; the caller closes it */
    uint64_t cookie;
    char path[512], container_id[254];
    const char *how; /* "cni-cache", "cri", "proc" */
    char error[256]; /* the best word on why it was not found */
};

/* Blocks: to be called in a thread of its own, which it moves to other network namespaces and back. own:
 * cookie of the node's namespace, which is nobody's. Returns how many were found. */
int netns_find(const struct netns_find_config *config, uint64_t own, struct netns_wanted *wanted, size_t len);

/* ---- for its parts and their tests ---- */

/* The one of that UID, out of the array; NULL: none wants it. The array owns it. */
struct netns_wanted *netns_wanted_by_uid(struct netns_wanted *wanted, size_t len, const char *uid,
                                         size_t uid_len);
/* Takes the namespace at path if it holds one of the pod's addresses. False, with the reason in error, if
 * not. */
bool netns_take(struct netns_wanted *w, uint64_t own, const char *path, const char *container_id,
                const char *how);

/* All three fill in what they find of those that have no namespace yet (fd -1), and leave the rest;
 * they block. Of the results in the CNI cache below directory. */
void netns_find_in_cache(const char *directory, uint64_t own, struct netns_wanted *wanted, size_t len);
/* Asks the runtime at the Unix socket. */
void netns_find_by_cri(const char *socket, uint64_t own, struct netns_wanted *wanted, size_t len);
/* Processes of the pods, below proc (/proc of the node), the oldest first. */
void netns_find_in_proc(const char *proc, uint64_t own, struct netns_wanted *wanted, size_t len);

/* What a file of the cache says. -EBADMSG, or -ENOENT if it names no pod's UID or no namespace. */
int netns_cache_parse(const char *text, size_t text_len, char uid[129], char path[512],
                      char container_id[254]);
/* The UID and the container in the text of /proc/PID/cgroup, dashes in place. -ENOENT if there is no pod. */
int netns_cgroup_parse(const char *text, char uid[129], char container_id[254]);
/* Some line of it names a pod, whatever the others say. */
bool netns_cgroup_is_of_pod(const char *text);

#endif
