/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/json_slice.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

struct slice_cursor {
    const char *at, *end;
};

static void skip_space(struct slice_cursor *c)
{
    while (c->at < c->end && strchr(" \t\r\n", *c->at) && *c->at)
        c->at++;
}

/* From the opening quote to behind the closing one. */
static void skip_string(struct slice_cursor *c)
{
    for (c->at++; c->at < c->end && *c->at != '"'; c->at++) {
        if (*c->at == '\\')
            c->at++;
    }
    if (c->at < c->end)
        c->at++;
}

/* Brackets are counted, strings stepped over; anything else runs up to the next comma or bracket. */
static void skip_value(struct slice_cursor *c)
{
    size_t depth = 0;

    while (c->at < c->end) {
        char ch = *c->at;

        if (ch == '"') {
            skip_string(c);
            if (!depth)
                return;
            continue;
        }
        if (ch == '{' || ch == '[') {
            depth++;
        } else if (ch == '}' || ch == ']') {
            if (!depth)
                return;
            if (!--depth) {
                c->at++;
                return;
            }
        } else if (!depth && (ch == ',' || strchr(" \t\r\n", ch))) {
            return;
        }
        c->at++;
    }
}

int json_slice_find(const char *text, size_t len, const char *key, const char **ret, size_t *ret_len)
{
    struct slice_cursor c = {text, text + len};
    size_t key_len = strlen(key);

    skip_space(&c);
    if (c.at == c.end || *c.at != '{')
        return -ENOENT;
    c.at++;
    for (;;) {
        const char *name, *value;
        bool match;

        skip_space(&c);
        if (c.at == c.end || *c.at != '"')
            return -ENOENT;
        name = c.at + 1;
        skip_string(&c);
        match = (size_t)(c.at - name) == key_len + 1 && !memcmp(name, key, key_len);
        skip_space(&c);
        if (c.at == c.end || *c.at != ':')
            return -ENOENT;
        c.at++;
        skip_space(&c);
        value = c.at;
        skip_value(&c);
        if (match) {
            *ret = value;
            *ret_len = (size_t)(c.at - value);
            return 0;
        }
        skip_space(&c);
        if (c.at == c.end || *c.at != ',')
            return -ENOENT;
        c.at++;
    }
}

void json_slice_elements(const char *text, size_t len,
                         void (*each)(void *data, const char *begin, size_t len), void *data)
{
    struct slice_cursor c = {text, text + len};

    if (c.at == c.end || *c.at != '[')
        return;
    do {
        const char *begin;

        c.at++;
        skip_space(&c);
        begin = c.at;
        skip_value(&c);
        if (c.at > begin)
            each(data, begin, (size_t)(c.at - begin));
        skip_space(&c);
    } while (c.at < c.end && *c.at == ',');
}
