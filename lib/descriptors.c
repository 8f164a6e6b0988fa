/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/descriptors.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/cleanup.h"

void descriptors_raise_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

unsigned descriptors_slots(void)
{
    static const char name[] = "FDSize:";
    _cleanup_file_ FILE *f = fopen("/proc/self/status", "re");
    _cleanup_free_ char *line = NULL;
    size_t size = 0;

    while (f && getline(&line, &size, f) > 0) {
        if (!strncmp(line, name, strlen(name)))
            return (unsigned)strtoul(line + strlen(name), NULL, 10);
    }
    return 0;
}

void descriptors_make_room(unsigned slots)
{
    struct rlimit limit;
    int one, last;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && slots > limit.rlim_cur)
        slots = (unsigned)limit.rlim_cur;
    if (!slots || descriptors_slots() >= slots)
        return;
    one = eventfd(0, EFD_CLOEXEC);
    last = one < 0 ? -1 : fcntl(one, F_DUPFD_CLOEXEC, (int)(slots - 1));
    if (last >= 0)
        close(last);
    if (one >= 0)
        close(one);
}
