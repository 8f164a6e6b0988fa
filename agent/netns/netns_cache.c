/* SPDX-License-Identifier: Apache-2.0 */
/* The result cache of libcni, which container runtimes keep below /var/lib/cni: a file for each run of a
 * chain. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/netns/netns_find.h"
#include "lib/cleanup.h"
#include "lib/file.h"
#include "lib/message.h"

#define FILE_MAX (1024 * 1024)

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* "cniArgs" is a list of pairs. */
static const char *argument(const cJSON *json, const char *name)
{
    const cJSON *pair;

    cJSON_ArrayForEach (pair, get(json, "cniArgs")) {
        const char *key = cJSON_GetStringValue(cJSON_GetArrayItem(pair, 0));

        if (key && !strcmp(key, name))
            return cJSON_GetStringValue(cJSON_GetArrayItem(pair, 1));
    }
    return NULL;
}

/* Older libraries write no "netns"; the interfaces of the result name it. */
static const char *namespace_of(const cJSON *json)
{
    const char *path = cJSON_GetStringValue(get(json, "netns"));
    const cJSON *interface;

    if (path && *path)
        return path;
    cJSON_ArrayForEach (interface, get(get(json, "result"), "interfaces")) {
        path = cJSON_GetStringValue(get(interface, "sandbox"));
        if (path && *path)
            return path;
    }
    return NULL;
}

int netns_cache_parse(const char *text, size_t text_len, char uid[129], char path[512],
                      char container_id[254])
{
    _cleanup_message_ cJSON *json = cJSON_ParseWithLength(text, text_len);
    const char *kind = cJSON_GetStringValue(get(json, "kind")), *container = NULL, *u, *p;

    if (!kind || strcmp(kind, "cniCacheV1") || message_name(json, "containerId", &container) < 0)
        return -EBADMSG;
    u = argument(json, "K8S_POD_UID");
    p = namespace_of(json);
    if (!u || !*u || !p)
        return -ENOENT;
    if (strlen(u) > 128 || *p != '/' || strlen(p) > 511)
        return -EBADMSG;
    snprintf(uid, 129, "%s", u);
    snprintf(path, 512, "%s", p);
    snprintf(container_id, 254, "%s", container);
    return 0;
}

void netns_find_in_cache(const char *directory, uint64_t own, struct netns_wanted *wanted, size_t len)
{
    char path[512], uid[129], netns[512], container[254];
    struct dirent *e;
    DIR *dir;

    snprintf(path, sizeof(path), "%s/results", directory);
    dir = opendir(path);
    while (dir && (e = readdir(dir))) {
        _cleanup_free_ char *text = NULL;
        size_t text_len = 0;
        struct netns_wanted *w = NULL;

        if (*e->d_name != '.' &&
            file_read(dirfd(dir), e->d_name, O_NOFOLLOW, FILE_MAX, &text, &text_len) == 0 &&
            netns_cache_parse(text, text_len, uid, netns, container) == 0)
            w = netns_wanted_by_uid(wanted, len, uid, strlen(uid));
        if (w && w->fd < 0)
            (void)netns_take(w, own, netns, container, "cni-cache");
    }
    if (dir)
        closedir(dir);
}
