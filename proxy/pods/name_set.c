/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pods/name_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Where the name is, or would have to be. */
static size_t position(const struct name_set *set, const char *name, bool *ret_there)
{
    size_t low = 0, high = set->len;

    *ret_there = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(set->names[middle], name);

        if (order == 0) {
            *ret_there = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int name_set_add(struct name_set *set, const char *name)
{
    bool there;
    size_t at = position(set, name, &there);
    char *copy;

    if (there)
        return 0;
    if (set->len == set->room) {
        size_t room = set->room ? 2 * set->room : 64;
        char **more = reallocarray(set->names, room, sizeof(*more));

        if (!more)
            return -ENOMEM;
        set->names = more;
        set->room = room;
    }
    copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    memmove(set->names + at + 1, set->names + at, (set->len - at) * sizeof(*set->names));
    set->names[at] = copy;
    set->len++;
    return 0;
}

void name_set_remove(struct name_set *set, const char *name)
{
    bool there;
    size_t at = position(set, name, &there);

    if (!there)
        return;
    free(set->names[at]);
    set->len--;
    memmove(set->names + at, set->names + at + 1, (set->len - at) * sizeof(*set->names));
}

bool name_set_has(const struct name_set *set, const char *name)
{
    bool there;

    position(set, name, &there);
    return there;
}

void name_set_clear(struct name_set *set)
{
    for (size_t i = 0; i < set->len; i++)
        free(set->names[i]);
    free(set->names);
    *set = (struct name_set){};
}
