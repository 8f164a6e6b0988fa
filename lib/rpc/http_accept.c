/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/http_accept.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

struct span {
    const char *at;
    size_t len;
};

static struct span trim(struct span s)
{
    while (s.len && (s.at[0] == ' ' || s.at[0] == '\t')) {
        s.at++;
        s.len--;
    }
    while (s.len && (s.at[s.len - 1] == ' ' || s.at[s.len - 1] == '\t'))
        s.len--;
    return s;
}

/* Takes what is in front of the next separator off the rest. False at the end. */
static bool next_part(struct span *rest, char separator, struct span *ret)
{
    const char *end;

    if (!rest->len)
        return false;
    end = memchr(rest->at, separator, rest->len);
    *ret = (struct span){rest->at, end ? (size_t)(end - rest->at) : rest->len};
    rest->at += ret->len + (end ? 1 : 0);
    rest->len -= ret->len + (end ? 1 : 0);
    return true;
}

/* "q=0", "q=0.0" and so on among the parameters. */
static bool weight_is_zero(struct span parameters)
{
    struct span p;

    while (next_part(&parameters, ';', &p)) {
        p = trim(p);
        if (p.len >= 3 && (p.at[0] == 'q' || p.at[0] == 'Q') && p.at[1] == '=')
            return 2 + strspn(p.at + 2, "0.") >= p.len;
    }
    return false;
}

bool http_accepts(const char *list, const char *token, bool *ret_listed)
{
    struct span rest = {list, list ? strlen(list) : 0}, element, name;

    if (ret_listed)
        *ret_listed = false;
    while (next_part(&rest, ',', &element)) {
        if (!next_part(&element, ';', &name))
            continue;
        name = trim(name);
        if (name.len == strlen(token) && !strncasecmp(name.at, token, name.len)) {
            if (ret_listed)
                *ret_listed = true;
            return !weight_is_zero(element);
        }
    }
    return false;
}

bool http_accepts_gzip(const char *list)
{
    bool listed, accepted = http_accepts(list, "gzip", &listed);

    return listed ? accepted : http_accepts(list, "*", NULL);
}
