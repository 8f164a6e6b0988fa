/* SPDX-License-Identifier: Apache-2.0 */
/* Pods by the control groups of their processes. The last resort: it reads all of /proc. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/netns/netns_find.h"
#include "lib/cleanup.h"
#include "lib/file.h"
#include "lib/proc.h"

#define CGROUP_TEXT 8192

/* A process of a wanted pod. */
struct process_candidate {
    struct netns_wanted *pod;
    uint64_t start; /* in ticks since boot */
    char container[254];
    char path[512];
    dev_t device;
    ino_t inode;
};

struct process_candidates {
    struct process_candidate *list;
    size_t len, size;
};

static int start_time(int process, uint64_t *ret)
{
    char text[PROC_STAT_TEXT];

    return file_read_text(process, "stat", 0, text, sizeof(text)) < 0 ? -ENOENT : proc_stat_start(text, ret);
}

static int add(struct process_candidates *c, const struct process_candidate *one)
{
    if (c->len == c->size) {
        size_t size = c->size ? 2 * c->size : 64;
        struct process_candidate *list = realloc(c->list, size * sizeof(*list));

        if (!list)
            return -ENOMEM;
        c->list = list;
        c->size = size;
    }
    c->list[c->len++] = *one;
    return 0;
}

/* Of several processes in one namespace the oldest is enough. */
static bool is_known(struct process_candidates *c, const struct process_candidate *one)
{
    for (size_t i = 0; i < c->len; i++) {
        struct process_candidate *other = &c->list[i];

        if (other->pod != one->pod || other->inode != one->inode || other->device != one->device)
            continue;
        if (one->start < other->start)
            *other = *one;
        return true;
    }
    return false;
}

static void look_at(const char *proc, int directory, const char *pid, struct netns_wanted *wanted, size_t len,
                    struct process_candidates *c)
{
    _cleanup_fd_ int process = openat(directory, pid, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct process_candidate one = {0};
    char text[CGROUP_TEXT], uid[129];
    struct stat st;

    if (process < 0 || file_read_text(process, "cgroup", 0, text, sizeof(text)) < 0 ||
        netns_cgroup_parse(text, uid, one.container) < 0)
        return;
    one.pod = netns_wanted_by_uid(wanted, len, uid, strlen(uid));
    if (!one.pod || one.pod->fd >= 0 || start_time(process, &one.start) < 0 ||
        fstatat(process, "ns/net", &st, 0) < 0)
        return;
    one.device = st.st_dev;
    one.inode = st.st_ino;
    if (snprintf(one.path, sizeof(one.path), "%s/%s/ns/net", proc, pid) >= (int)sizeof(one.path))
        return;
    if (!is_known(c, &one))
        (void)add(c, &one);
}

static int oldest_first(const void *a, const void *b)
{
    const struct process_candidate *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

void netns_find_in_proc(const char *proc, uint64_t own, struct netns_wanted *wanted, size_t len)
{
    struct process_candidates c = {0};
    DIR *dir = opendir(proc);
    struct dirent *e;

    while (dir && (e = readdir(dir))) {
        if (isdigit((unsigned char)*e->d_name))
            look_at(proc, dirfd(dir), e->d_name, wanted, len, &c);
    }
    if (dir)
        closedir(dir);
    if (c.len)
        qsort(c.list, c.len, sizeof(*c.list), oldest_first);
    for (size_t i = 0; i < c.len; i++) {
        struct process_candidate *one = &c.list[i];

        if (one->pod->fd < 0)
            (void)netns_take(one->pod, own, one->path, *one->container ? one->container : "unknown", "proc");
    }
    free(c.list);
}
