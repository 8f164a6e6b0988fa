/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/gate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

int gate_token_new(char token[GATE_TOKEN_LEN + 1])
{
    unsigned char bytes[GATE_TOKEN_LEN / 2];

    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return errno ? -errno : -EIO;
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(token + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

const char *gate_path(const char *path, const char token[GATE_TOKEN_LEN + 1])
{
    unsigned char difference = 0;

    if (strnlen(path, GATE_TOKEN_LEN + 1) < GATE_TOKEN_LEN + 1 || *path != '/')
        return NULL;
    for (size_t i = 0; i < GATE_TOKEN_LEN; i++)
        difference |= (unsigned char)(path[1 + i] ^ token[i]);
    path += 1 + GATE_TOKEN_LEN;
    return difference || (*path && *path != '/') ? NULL : path;
}
