/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/trust_domains.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/spiffe.h"

#define SEPARATORS ", \t\n"

/* As SPIFFE has it: lower case letters, digits, dots, dashes, underscores. Istio lets upper case pass. */
static bool is_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

    return name[strspn(name, letters)] == '\0' && strlen(name) < 256;
}

int trust_domains_parse(const char *list, struct trust_domains *ret)
{
    struct trust_domains aliases = {.text = strdup(list)};
    char *rest = NULL;
    int r = aliases.text ? 0 : -ENOMEM;

    for (char *name = r == 0 ? strtok_r(aliases.text, SEPARATORS, &rest) : NULL; name && r == 0;
         name = strtok_r(NULL, SEPARATORS, &rest)) {
        if (aliases.len == TRUST_DOMAINS_MAX || !is_name(name))
            r = -EINVAL;
        else
            aliases.names[aliases.len++] = name;
    }
    if (r < 0) {
        free(aliases.text);
        return r;
    }
    *ret = aliases;
    return 0;
}

void trust_domains_free(struct trust_domains *aliases)
{
    free(aliases->text);
    memset(aliases, 0, sizeof(*aliases));
}

static bool equal(const char *name, const char *text, size_t len)
{
    return strlen(name) == len && !memcmp(name, text, len);
}

static bool is_own(const struct trust_domains *aliases, const char *own, const char *text, size_t len)
{
    if (equal(own, text, len))
        return true;
    for (size_t i = 0; i < aliases->len; i++) {
        if (equal(aliases->names[i], text, len))
            return true;
    }
    return false;
}

bool trust_domains_same(const struct trust_domains *aliases, const char *own, const char *a, size_t a_len,
                        const char *b, size_t b_len)
{
    if (a_len == b_len && !memcmp(a, b, a_len))
        return true;
    return aliases && aliases->len && is_own(aliases, own, a, a_len) && is_own(aliases, own, b, b_len);
}

bool trust_domains_same_identity(const struct trust_domains *aliases, const char *own, const char *a,
                                 const char *b)
{
    struct spiffe x, y;

    if (!strcmp(a, b))
        return true;
    if (!aliases || !aliases->len || spiffe_parse(a, strlen(a), &x) < 0 || spiffe_parse(b, strlen(b), &y) < 0)
        return false;
    return !strcmp(x.trust_domain + x.trust_domain_len, y.trust_domain + y.trust_domain_len) &&
           trust_domains_same(aliases, own, x.trust_domain, x.trust_domain_len, y.trust_domain,
                              y.trust_domain_len);
}
