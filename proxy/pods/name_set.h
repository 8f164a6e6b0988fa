/* SPDX-License-Identifier: Apache-2.0 */
/* A set of names, sorted: the pods that were named since a connection began. */
#ifndef PROXY_PODS_NAME_SET_H
#define PROXY_PODS_NAME_SET_H

#include <stdbool.h>
#include <stddef.h>

struct name_set {
    char **names;
    size_t len, room; /* names that are there, and that there is room for */
};

int name_set_add(struct name_set *set, const char *name); /* 0, also if it was there; -ENOMEM */
/* Harmless if it is not there. */
void name_set_remove(struct name_set *set, const char *name);
/* Whether the name is in it. */
bool name_set_has(const struct name_set *set, const char *name);
/* Empties it. */
void name_set_clear(struct name_set *set);

#endif
