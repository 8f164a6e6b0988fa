/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pods of this node, in the mesh or not, as the CNI plugin or the source has told of them: who a pod is,
 * and where its sandbox is. What the rooms above know of a pod they keep themselves. All on the loop's
 * thread.
 */
#ifndef AGENT_POD_PODS_H
#define AGENT_POD_PODS_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/maps.h"
#include "lib/addr.h"
#include "lib/list.h"

struct loop;
struct enrollment;
struct health;

/* One run of the CNI chain for the pod. */
struct attachment {
    struct list node;
    char *network; /* "" if the plugin did not name it */
    char *ifname;
};

struct pod {
    struct list node; /* in struct pods */
    struct loop *loop;

    char *uid, *namespace, *name;
    uint64_t added;   /* loop time at which it was, also of an agent before this one */
    int64_t added_at; /* CLOCK_REALTIME seconds, 0: not known */

    /* its sandbox */
    char *container_id, *netns_path;
    struct list attachments;
    uint64_t cookie; /* of the network namespace */
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    int netns_fd;         /* -1 while outside the mesh: an open one keeps the namespace alive */
    uint64_t netns_inode; /* of netns_path when it was last seen to lead there; 0: not known */
    bool netns_unseen; /* the agent sees nothing at netns_path: processes tell whether the namespace lives */
    uint64_t held_inode, held_device; /* of netns_fd; 0: not asked yet */

    const struct enrollment *enrollment; /* agent/enroll/enrollment.h; never NULL */
    const struct health *health;         /* the same */
    struct list assignments;             /* struct pod_assignment of agent/proxies */
};

struct pods {
    struct list list;
};

/* No pod yet. */
void pods_init(struct pods *pods);

/* All four: the pod, or NULL. It stays the list's. */
struct pod *pods_by_uid(const struct pods *pods, const char *uid);
struct pod *pods_by_container(const struct pods *pods, const char *container_id);
struct pod *pods_by_cookie(const struct pods *pods, uint64_t cookie);
struct pod *pods_by_name(const struct pods *pods, const char *namespace, const char *name);

/* Makes a zeroed pod one without a sandbox, in no list; strings are copied. 0 or -ENOMEM. */
int pod_init(struct pod *pod, const char *uid, const char *namespace, const char *name);
/* Frees what the pod has, not the pod. */
void pod_release(struct pod *pod);

/* Strings are copied. 0, or -ENOMEM and some of it is as it was. */
int pod_set_sandbox(struct pod *pod, const char *container_id, const char *netns_path, uint64_t cookie);
/* Adds the run of the chain if it is new; strings are copied. 0 or -ENOMEM. */
int pod_attach(struct pod *pod, const char *network, const char *ifname);
/* Forgets it; true if none is left. */
bool pod_detach(struct pod *pod, const char *ifname);
/* Adds those that are new, as far as there is room (see addr_list_add()). Returns how many were added. */
int pod_merge_addresses(struct pod *pod, const struct addr *addresses, int len);

/* fd: of its namespace. Notes whether the path leads there as the agent sees it. */
void pod_look_at_netns(struct pod *pod, int fd);
/* 1: the path still leads to this pod's network namespace. 0: it does not. -errno: it cannot be told. */
int pod_netns_present(struct pod *pod);
/* Closes netns_fd, if it is open. */
void pod_close_netns(struct pod *pod);

#endif
