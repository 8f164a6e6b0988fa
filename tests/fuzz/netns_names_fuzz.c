/* SPDX-License-Identifier: Apache-2.0 */
/* What names a running pod's network namespace: files of the CNI cache, and /proc/PID/cgroup, which a
 * container can partly choose. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/netns/netns_find.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char uid[129], path[512], container[254];
    char *text = malloc(size + 1);

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (netns_cache_parse(text, size, uid, path, container) == 0 && (!*uid || *path != '/' || !*container))
        abort();
    /* Of a pod's UID only the two forms that there are. */
    if (netns_cgroup_parse(text, uid, container) == 0 &&
        ((strlen(uid) != 36 && strlen(uid) != 32) || strchr(uid, '/') || strchr(container, '/')))
        abort();
    free(text);
    return 0;
}
