/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"

/* Field 22 of /proc/PID/stat, counted after the last ")": the name before it may hold anything. */
uint64_t process_start(pid_t pid)
{
    char path[64], line[1024];
    const char *at;
    size_t len;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    _cleanup_file_ FILE *f = fopen(path, "re");

    if (!f)
        return 0;
    len = fread(line, 1, sizeof(line) - 1, f);
    line[len] = '\0';
    at = strrchr(line, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}
