/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/gate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
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

bool gate_host_is_ours(const char *host)
{
    static const char *const names[] = {"127.0.0.1", "localhost", "[::1]"};

    for (size_t i = 0; host && i < sizeof(names) / sizeof(names[0]); i++) {
        size_t len = strlen(names[i]);
        const char *port = host + len;

        if (strncasecmp(host, names[i], len) != 0)
            continue;
        if (!*port)
            return true;
        if (*port == ':' && port[1] && strspn(port + 1, "0123456789") == strlen(port + 1))
            return true;
    }
    return false;
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
