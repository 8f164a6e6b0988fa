/* SPDX-License-Identifier: Apache-2.0 */
/* Pods in the names of control groups. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/netns/netns_find.h"

static bool is_uid_char(char c)
{
    return isxdigit((unsigned char)c) || c == '-' || c == '_';
}

/* A UUID, or the 32 hexadecimal digits of a static pod, in the spelling of the API. */
static bool take_uid(const char *text, size_t len, char uid[129])
{
    if (len != 36 && len != 32)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool dash = len == 36 && (i == 8 || i == 13 || i == 18 || i == 23);

        if (dash ? text[i] != '-' && text[i] != '_' : !isxdigit((unsigned char)text[i]))
            return false;
        uid[i] = dash ? '-' : text[i];
    }
    uid[len] = '\0';
    return true;
}

/* Looks for "pod<uid>" that is a word of its own. The outermost one counts: below its own group a container
 * may make groups of any name. Returns what is behind it, or NULL. */
static const char *find_pod(const char *line, size_t len, char uid[129])
{
    for (size_t i = 1; i + 3 < len; i++) {
        size_t n = 0;

        if (memcmp(line + i, "pod", 3) || !strchr("/-_", line[i - 1]))
            continue;
        while (i + 3 + n < len && is_uid_char(line[i + 3 + n]))
            n++;
        if (take_uid(line + i + 3, n, uid))
            return line + i + 3 + n;
    }
    return NULL;
}

/* "cri-containerd-ID.scope", "crio-ID", "ID": the first part below the pod's own group. */
static void take_container(const char *rest, const char *end, char container[254])
{
    const char *begin = memchr(rest, '/', (size_t)(end - rest)), *stop, *dash;
    size_t len;

    container[0] = '\0';
    if (!begin)
        return;
    begin++;
    stop = memchr(begin, '/', (size_t)(end - begin));
    len = (size_t)((stop ? stop : end) - begin);
    if (len > 6 && !memcmp(begin + len - 6, ".scope", 6))
        len -= 6;
    dash = memrchr(begin, '-', len);
    if (dash) {
        len -= (size_t)(dash + 1 - begin);
        begin = dash + 1;
    }
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)begin[i]))
            return;
    }
    if (len && len < 254)
        snprintf(container, 254, "%.*s", (int)len, begin);
}

int netns_cgroup_parse(const char *text, char uid[129], char container_id[254])
{
    char found[129] = "", other[129] = "", container[254] = "", other_container[254] = "";

    for (const char *line = text, *next; *line; line = next) {
        const char *end = strchrnul(line, '\n'), *path = memchr(line, ':', (size_t)(end - line)), *rest;

        next = *end ? end + 1 : end;
        path = path ? memchr(path + 1, ':', (size_t)(end - path - 1)) : NULL;
        rest = path ? find_pod(path + 1, (size_t)(end - path - 1), other) : NULL;
        if (!rest)
            continue;
        take_container(rest, end, other_container);
        /* Hierarchies that disagree are nobody's doing but somebody's. */
        if (*found && (strcmp(found, other) != 0 || strcmp(container, other_container) != 0))
            return -ENOENT;
        memcpy(found, other, sizeof(found));
        memcpy(container, other_container, sizeof(container));
    }
    if (!*found)
        return -ENOENT;
    memcpy(uid, found, sizeof(found));
    memcpy(container_id, container, sizeof(container));
    return 0;
}

bool netns_cgroup_is_of_pod(const char *text)
{
    char uid[129];

    for (const char *line = text, *next; *line; line = next) {
        const char *end = strchrnul(line, '\n');

        next = *end ? end + 1 : end;
        if (find_pod(line, (size_t)(end - line), uid))
            return true;
    }
    return false;
}
