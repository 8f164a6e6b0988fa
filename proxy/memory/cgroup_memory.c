/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/memory/cgroup_memory.h"

#include <limits.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"

struct hierarchy {
    const char *type, *option; /* of its mount */
    const char *file;
};

static const struct hierarchy hierarchies[] = {
    {"cgroup2", NULL, "memory.max"},
    {"cgroup", "memory", "memory.limit_in_bytes"},
};

static bool mount_point(const struct hierarchy *h, char ret[PATH_MAX])
{
    FILE *f = setmntent("/proc/self/mounts", "re");
    struct mntent *m;
    bool found = false;

    while (f && !found && (m = getmntent(f))) {
        found = !strcmp(m->mnt_type, h->type) && (!h->option || hasmntopt(m, h->option));
        if (found)
            snprintf(ret, PATH_MAX, "%s", m->mnt_dir);
    }
    if (f)
        endmntent(f);
    return found;
}

/* The process's path in the hierarchy: the line "0::/path", or "N:...,memory,...:/path". */
static bool own_path(const struct hierarchy *h, char ret[PATH_MAX])
{
    _cleanup_file_ FILE *f = fopen("/proc/self/cgroup", "re");
    char line[PATH_MAX + 256];

    while (f && fgets(line, sizeof(line), f)) {
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL,
             *saved;
        bool ours = false;

        if (!path)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        controllers++;
        if (!h->option)
            ours = !*controllers;
        for (char *c = h->option ? strtok_r(controllers, ",", &saved) : NULL; c;
             c = strtok_r(NULL, ",", &saved))
            ours = ours || !strcmp(c, h->option);
        if (ours) {
            snprintf(ret, PATH_MAX, "%s", path);
            return true;
        }
    }
    return false;
}

/* "max" is no number; more than the machine has is no limit. */
static unsigned long read_limit(const char *mount, const char *path, const char *file)
{
    unsigned long limit, all = (unsigned long)sysconf(_SC_PHYS_PAGES) * (unsigned long)sysconf(_SC_PAGESIZE);
    char name[2 * PATH_MAX + 64];
    _cleanup_file_ FILE *f = NULL;

    snprintf(name, sizeof(name), "%s%s/%s", mount, path, file);
    f = fopen(name, "re");
    return f && fscanf(f, "%lu", &limit) == 1 && limit < all ? limit : 0;
}

/* In a container the mount may begin at its own cgroup while the path is the node's: then only the last step,
 * the mount itself, is there. */
unsigned long cgroup_memory_limit(void)
{
    unsigned long least = 0;

    for (size_t i = 0; i < array_size(hierarchies); i++) {
        char mount[PATH_MAX], path[PATH_MAX];

        if (!mount_point(&hierarchies[i], mount) || !own_path(&hierarchies[i], path))
            continue;
        for (char *slash = path; slash;) {
            unsigned long limit = read_limit(mount, path, hierarchies[i].file);

            if (limit && (!least || limit < least))
                least = limit;
            slash = strrchr(path, '/');
            if (slash)
                *slash = '\0';
        }
    }
    return least;
}
