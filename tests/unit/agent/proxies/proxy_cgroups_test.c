/* SPDX-License-Identifier: Apache-2.0 */
/* Which cgroup a proxy's process is in, below that of the pods. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/proxies/proxy_cgroups.h"

static char directory[64]; /* as /proc */

static void setup(void)
{
    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
}

static void teardown(void)
{
    cr_expect(rmdir(directory) == 0);
}

TestSuite(proxy_cgroups, .init = setup, .fini = teardown);

Test(proxy_cgroups, a_process_needs_a_cgroup_below_the_pods)
{
    struct steer_error error;
    char path[128], line[128];
    uint64_t id;
    FILE *f;

    snprintf(path, sizeof(path), "%s/7", directory);
    cr_assert(mkdir(path, 0700) == 0);
    snprintf(path, sizeof(path), "%s/7/cgroup", directory);
    for (int i = 0; i < 3; i++) {
        static const char *const lines[] = {"1:name=systemd:/\n", "0::/\n", "0::/../outside\n"};

        snprintf(line, sizeof(line), "%s", lines[i]);
        f = fopen(path, "w");
        fputs(line, f);
        fclose(f);
        cr_expect(proxy_cgroups_find(directory, 7, "/sys/fs/cgroup", &id, &error) < 0, "%s", line);
        cr_expect(error.reason == BRUMA_REASON_PROXY_CGROUP);
    }
    cr_expect(proxy_cgroups_find(directory, 8, "/sys/fs/cgroup", &id, &error) == -ENOENT);
    unlink(path);
    snprintf(path, sizeof(path), "%s/7", directory);
    rmdir(path);
}

static void write_cgroup(const char *path, const char *cgroup)
{
    FILE *f = fopen(path, "w");

    cr_assert(f);
    fprintf(f, "0::%s\n", cgroup);
    fclose(f);
}

/* --cgroup may name a mount of the directory; the kernel knows one path alone. */
Test(proxy_cgroups, the_cgroup_of_pods_may_have_a_second_path)
{
    static const char *const mounts[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"};
    char base[96], pods[128], proxy[160], second[128], proc[128], file[160];
    struct steer_error error;
    const char *root = NULL;
    struct statfs fs;
    struct stat st;
    uint64_t id = 0;

    for (size_t i = 0; i < 2 && !root; i++)
        root = statfs(mounts[i], &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC ? mounts[i] : NULL;
    cr_assert(root, "no cgroup2 is mounted on this machine");
    snprintf(base, sizeof(base), "%s/bruma-%d", root, getpid());
    snprintf(pods, sizeof(pods), "%s/pods", base);
    snprintf(proxy, sizeof(proxy), "%s/proxy", pods);
    snprintf(second, sizeof(second), "%s/second", base);
    snprintf(proc, sizeof(proc), "%s/7", directory);
    snprintf(file, sizeof(file), "%s/cgroup", proc);
    cr_assert(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    cr_assert(!mkdir(base, 0755) && !mkdir(pods, 0755) && !mkdir(proxy, 0755) && !mkdir(second, 0755));
    cr_assert(mkdir(proc, 0700) == 0 && mount(pods, second, NULL, MS_BIND, NULL) == 0);
    cr_expect(stat(proxy, &st) == 0);

    write_cgroup(file, proxy + strlen(root));
    cr_expect(proxy_cgroups_find(directory, 7, second, &id, &error) == 0 && id == st.st_ino);
    cr_expect(proxy_cgroups_find(directory, 7, pods, &id, &error) == 0 && id == st.st_ino);
    write_cgroup(file, pods + strlen(root));
    cr_expect(proxy_cgroups_find(directory, 7, second, &id, &error) == -EXDEV, "it must be below");
    write_cgroup(file, base + strlen(root));
    cr_expect(proxy_cgroups_find(directory, 7, second, &id, &error) == -EXDEV, "it must not be above");

    cr_expect(umount(second) == 0);
    cr_expect(!rmdir(second) && !rmdir(proxy) && !rmdir(pods) && !rmdir(base));
    cr_expect(!unlink(file) && !rmdir(proc));
}
