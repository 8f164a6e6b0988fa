/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/source_choice.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"

static const char *const names[SOURCES] = {
    [SOURCE_CA] = "ca", [SOURCE_FILES] = "files", [SOURCE_SPIRE] = "spire"};

static int kind_of(const char *word, size_t len, enum source_kind *ret)
{
    for (int i = 0; i < SOURCES; i++) {
        if (strlen(names[i]) == len && !memcmp(names[i], word, len)) {
            *ret = (enum source_kind)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* word: SOURCE or TRUST-DOMAIN=SOURCE. Neither is said twice. */
static int take(struct source_choice *c, const char *word, size_t len, bool *others_said)
{
    const char *equals = memchr(word, '=', len);
    size_t domain = equals ? (size_t)(equals - word) : 0;
    enum source_kind kind;

    if (kind_of(equals ? equals + 1 : word, equals ? len - domain - 1 : len, &kind) < 0)
        return -EINVAL;
    if (!equals) {
        c->others = kind;
        return *others_said ? -EINVAL : (*others_said = true, 0);
    }
    if (!domain || domain >= sizeof(c->items[0].trust_domain) || c->len == SOURCE_CHOICES_MAX)
        return -EINVAL;
    for (size_t i = 0; i < c->len; i++) {
        if (strlen(c->items[i].trust_domain) == domain && !memcmp(c->items[i].trust_domain, word, domain))
            return -EINVAL;
    }
    memcpy(c->items[c->len].trust_domain, word, domain);
    c->items[c->len++].kind = kind;
    return 0;
}

int source_choice_parse(const char *text, struct source_choice *ret, char *error, size_t error_size)
{
    static const char separators[] = ", \t\n";
    struct source_choice c = {.others = SOURCE_CA};
    bool others_said = false;

    for (const char *at = text + strspn(text, separators); *at; at += strspn(at, separators)) {
        size_t len = strcspn(at, separators);

        if (take(&c, at, len, &others_said) < 0) {
            snprintf(error, error_size,
                     "\"%.*s\" is not ca, files or spire, nor TRUST-DOMAIN= with one of these, said once",
                     (int)(len < 100 ? len : 100), at);
            return -EINVAL;
        }
        at += len;
    }
    *ret = c;
    return 0;
}

enum source_kind source_choice_of(const struct source_choice *c, const char *trust_domain, size_t len)
{
    for (size_t i = 0; i < c->len; i++) {
        if (strlen(c->items[i].trust_domain) == len && !memcmp(c->items[i].trust_domain, trust_domain, len))
            return c->items[i].kind;
    }
    return c->others;
}

bool source_choice_has(const struct source_choice *c, enum source_kind kind)
{
    for (size_t i = 0; i < c->len; i++) {
        if (c->items[i].kind == kind)
            return true;
    }
    return c->others == kind;
}
