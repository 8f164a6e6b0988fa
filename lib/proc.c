/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/proc.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/file.h"

const char *proc_stat_field(const char *stat, int field)
{
    const char *at = strrchr(stat, ')');

    for (int i = 2; at && i < field; i++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at;
}

int proc_stat_start(const char *stat, uint64_t *ret)
{
    const char *field = proc_stat_field(stat, 22);

    if (!field || !isdigit((unsigned char)*field))
        return -EBADMSG;
    *ret = strtoull(field, NULL, 10);
    return 0;
}

uint64_t proc_start(pid_t pid)
{
    char path[64], text[PROC_STAT_TEXT];
    uint64_t start;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (file_read_text(AT_FDCWD, path, 0, text, sizeof(text)) < 0 || proc_stat_start(text, &start) < 0)
        return 0;
    return start;
}

char *proc_cgroup2(char *cgroup)
{
    char *line = strncmp(cgroup, "0::/", 4) ? strstr(cgroup, "\n0::/") : cgroup - 1;

    if (!line)
        return NULL;
    line += 1 + 3;
    line[strcspn(line, "\n")] = '\0';
    return line;
}
