/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/map_number.h"

#include <stdio.h>

/* The kernel's number of the map; -1: not known. bpf() could tell it too, but is refused to the proxy. */
static long map_number(int fd)
{
    char path[64], line[128];
    long number = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    f = fopen(path, "re");
    while (f && number < 0 && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "map_id:%ld", &number) != 1)
            number = -1;
    }
    if (f)
        fclose(f);
    return number;
}

bool same_maps(const int *a, const int *b, int len)
{
    for (int i = 0; i < len; i++) {
        long number = map_number(a[i]);

        if (number < 0 || number != map_number(b[i]))
            return false;
    }
    return true;
}
