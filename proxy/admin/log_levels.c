/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/log_levels.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "lib/cleanup.h"

#define ENTRIES_MAX 17 /* scopes that lib/log.c takes, and the level for all others */
#define PREFIX      "ztunnel::"

struct level_entry {
    const char *scope; /* len 0: the level for all that has none of its own */
    size_t scope_len;
    const char *level; /* a literal */
};

struct level_entries {
    struct level_entry list[ENTRIES_MAX];
    size_t len;
};

static const char *level_named(const char *name, size_t len)
{
    /* The last two are istioctl's. */
    static const char *const names[][2] = {{"off", "off"},      {"error", "error"},   {"warn", "warn"},
                                           {"info", "info"},    {"debug", "debug"},   {"trace", "trace"},
                                           {"warning", "warn"}, {"critical", "error"}};

    for (size_t i = 0; i < array_size(names); i++) {
        if (strlen(names[i][0]) == len && !strncasecmp(names[i][0], name, len))
            return names[i][1];
    }
    return NULL;
}

static bool is_scope(const char *text, size_t len)
{
    return len && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:") >= len;
}

static int put(struct level_entries *all, const struct level_entry *e)
{
    for (size_t i = 0; i < all->len; i++) {
        if (all->list[i].scope_len == e->scope_len && !strncmp(all->list[i].scope, e->scope, e->scope_len)) {
            all->list[i].level = e->level;
            return 0;
        }
    }
    if (all->len == ENTRIES_MAX)
        return -ENOSPC;
    all->list[all->len++] = *e;
    return 0;
}

static int take_element(struct level_entries *all, const char *text, size_t len)
{
    const char *sign = memchr(text, '=', len);
    struct level_entry e = {text, 0, NULL};

    if (!sign)
        sign = memrchr(text, ':', len);
    e.level = sign ? level_named(sign + 1, len - (size_t)(sign - text) - 1) : level_named(text, len);
    if (!e.level)
        return -EINVAL;
    if (sign) {
        e.scope_len = (size_t)(sign - text);
        if (e.scope_len > strlen(PREFIX) && !strncmp(text, PREFIX, strlen(PREFIX))) {
            e.scope += strlen(PREFIX);
            e.scope_len -= strlen(PREFIX);
        }
        if (!is_scope(e.scope, e.scope_len))
            return -EINVAL;
    }
    return put(all, &e);
}

static int take_list(struct level_entries *all, const char *list)
{
    while (*list) {
        size_t len = strcspn(list, ",");
        int r = len ? take_element(all, list, len) : 0;

        if (r < 0)
            return r;
        list += len + (list[len] ? 1 : 0);
    }
    return 0;
}

int log_levels_merge(const char *filter, const char *more, char ret[LOG_LEVELS_MAX])
{
    char text[LOG_LEVELS_MAX];
    struct level_entries all = {};
    size_t len = 0;
    int r = take_list(&all, filter);

    if (r == 0)
        r = take_list(&all, more);
    for (size_t i = 0; r == 0 && i < all.len; i++) {
        const struct level_entry *e = &all.list[i];
        size_t level_len = strlen(e->level);

        if (len + e->scope_len + level_len + 3 > sizeof(text))
            return -ENOSPC;
        if (i)
            text[len++] = ',';
        if (e->scope_len) {
            memcpy(text + len, e->scope, e->scope_len);
            len += e->scope_len;
            text[len++] = '=';
        }
        memcpy(text + len, e->level, level_len);
        len += level_len;
    }
    if (r < 0)
        return r;
    text[len] = '\0';
    memcpy(ret, text, len + 1);
    return 0;
}
