/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/agent/proc_files.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/stat.h>

void write_proc(const char *root, const char *pid, const char *name, const char *text)
{
    char path[400];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", root, pid);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/%s/%s", root, pid, name);
    f = fopen(path, "w");
    cr_assert(f != NULL);
    fputs(text, f);
    fclose(f);
}
