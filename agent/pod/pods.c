/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/pod/pods.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/netns.h"

void pods_init(struct pods *pods)
{
    list_init(&pods->list);
}

struct pod *pods_by_uid(const struct pods *pods, const char *uid)
{
    struct pod *pod;

    list_for_each (pod, &pods->list, node) {
        if (!strcmp(pod->uid, uid))
            return pod;
    }
    return NULL;
}

struct pod *pods_by_container(const struct pods *pods, const char *container_id)
{
    struct pod *pod;

    list_for_each (pod, &pods->list, node) {
        if (pod->container_id && !strcmp(pod->container_id, container_id))
            return pod;
    }
    return NULL;
}

struct pod *pods_by_cookie(const struct pods *pods, uint64_t cookie)
{
    struct pod *pod;

    list_for_each (pod, &pods->list, node) {
        if (pod->cookie == cookie)
            return pod;
    }
    return NULL;
}

struct pod *pods_by_name(const struct pods *pods, const char *namespace, const char *name)
{
    struct pod *pod;

    list_for_each (pod, &pods->list, node) {
        if (!strcmp(pod->name, name) && !strcmp(pod->namespace, namespace))
            return pod;
    }
    return NULL;
}

static int set_text(char **field, const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        return -ENOMEM;
    free(*field);
    *field = copy;
    return 0;
}

int pod_init(struct pod *pod, const char *uid, const char *namespace, const char *name)
{
    list_init(&pod->node);
    list_init(&pod->attachments);
    list_init(&pod->assignments);
    pod->netns_fd = -1;
    if (set_text(&pod->uid, uid) == 0 && set_text(&pod->namespace, namespace) == 0 &&
        set_text(&pod->name, name) == 0 && set_text(&pod->container_id, "") == 0 &&
        set_text(&pod->netns_path, "") == 0)
        return 0;
    pod_release(pod);
    return -ENOMEM;
}

static void attachment_free(struct attachment *a)
{
    list_del(&a->node);
    free(a->network);
    free(a->ifname);
    free(a);
}

void pod_release(struct pod *pod)
{
    struct attachment *a;

    pod_close_netns(pod);
    list_for_each (a, &pod->attachments, node)
        attachment_free(a);
    free(pod->uid);
    free(pod->namespace);
    free(pod->name);
    free(pod->container_id);
    free(pod->netns_path);
}

int pod_set_sandbox(struct pod *pod, const char *container_id, const char *netns_path, uint64_t cookie)
{
    if (set_text(&pod->container_id, container_id) < 0 || set_text(&pod->netns_path, netns_path) < 0)
        return -ENOMEM;
    pod->cookie = cookie;
    return 0;
}

int pod_attach(struct pod *pod, const char *network, const char *ifname)
{
    struct attachment *a;

    list_for_each (a, &pod->attachments, node) {
        if (!strcmp(a->ifname, ifname))
            return set_text(&a->network, network);
    }
    a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    list_init(&a->node);
    if (set_text(&a->network, network) < 0 || set_text(&a->ifname, ifname) < 0) {
        attachment_free(a);
        return -ENOMEM;
    }
    list_add_tail(&pod->attachments, &a->node);
    return 0;
}

bool pod_detach(struct pod *pod, const char *ifname)
{
    struct attachment *a;

    list_for_each (a, &pod->attachments, node) {
        if (!strcmp(a->ifname, ifname))
            attachment_free(a);
    }
    return list_empty(&pod->attachments);
}

int pod_merge_addresses(struct pod *pod, const struct addr *addresses, int len)
{
    int added = 0;

    for (int i = 0; i < len; i++)
        added += addr_list_add(pod->addresses, &pod->addresses_len, BRUMA_POD_ADDRESSES, &addresses[i]) > 0;
    return added;
}

void pod_close_netns(struct pod *pod)
{
    if (pod->netns_fd >= 0)
        close(pod->netns_fd);
    pod->netns_fd = -1;
    pod->held_inode = 0;
}

void pod_look_at_netns(struct pod *pod, int fd)
{
    struct stat held, path;

    if (fstat(fd, &held) < 0)
        return;
    pod->netns_inode = held.st_ino;
    pod->netns_unseen =
        stat(pod->netns_path, &path) < 0 || path.st_ino != held.st_ino || path.st_dev != held.st_dev;
}

/* Of a name that leads to no network namespace. Everything else says nothing of the namespace. */
static bool means_gone(int error)
{
    return error == -ENOENT || error == -ENOTDIR || error == -ELOOP || error == -EINVAL;
}

int pod_netns_present(struct pod *pod)
{
    struct stat path, held;
    uint64_t cookie;
    int r;

    if (stat(pod->netns_path, &path) < 0)
        return means_gone(-errno) ? 0 : -errno;
    /* The descriptor keeps the inode number from being used again, so equal numbers mean the same one. */
    if (pod->netns_fd >= 0) {
        if (pod->held_inode)
            return path.st_ino == pod->held_inode && path.st_dev == pod->held_device;
        if (fstat(pod->netns_fd, &held) < 0)
            return -errno;
        pod->held_inode = held.st_ino;
        pod->held_device = held.st_dev;
        return path.st_ino == held.st_ino && path.st_dev == held.st_dev;
    }
    if (pod->netns_inode)
        return path.st_ino == pod->netns_inode;
    _cleanup_fd_ int fd = netns_open(pod->netns_path);

    if (fd < 0)
        return means_gone(fd) ? 0 : fd;
    r = netns_cookie(fd, &cookie);
    if (r < 0)
        return r;
    if (cookie != pod->cookie)
        return 0;
    pod->netns_inode = path.st_ino;
    return 1;
}
