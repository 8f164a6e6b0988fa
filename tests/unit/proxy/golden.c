/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/golden.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

void golden_read(const char *name, uint8_t **ret_data, size_t *ret_len)
{
    char path[512], line[1024];
    uint8_t *data = NULL;
    size_t len = 0;
    FILE *in;

    snprintf(path, sizeof(path), "%s/handover/%s", TEST_DATA, name);
    in = fopen(path, "re");
    cr_assert(in, "%s", path);
    while (fgets(line, sizeof(line), in)) {
        for (char *at = line; *at && *at != '#';) {
            unsigned byte;

            if (isspace((unsigned char)*at)) {
                at++;
                continue;
            }
            cr_assert(sscanf(at, "%2x", &byte) == 1 && isxdigit((unsigned char)at[1]), "%s: %s", path, line);
            data = realloc(data, len + 1);
            cr_assert(data);
            data[len++] = (uint8_t)byte;
            at += 2;
        }
    }
    fclose(in);
    *ret_data = data;
    *ret_len = len;
}
