/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/spire_selectors.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/spiffe.h"

enum { REQUEST_SELECTOR = 1, SELECTOR_TYPE = 1, SELECTOR_VALUE = 2 };

#define VALUE_MAX (SPIFFE_MAX + 512) /* bytes of one selector's value, with the NUL */

static const char separators[] = ", \t\n";

enum { TRUST_DOMAIN, NAMESPACE, ACCOUNT, POD_UID, WORDS };
static const char *const words[WORDS] = {
    [TRUST_DOMAIN] = "{trust-domain}",
    [NAMESPACE] = "{namespace}",
    [ACCOUNT] = "{account}",
    [POD_UID] = "{pod-uid}",
};

/* What a word stands for. */
struct piece {
    const char *at;
    size_t len;
};

/* The word that begins here, or WORDS. */
static int word_at(const char *text, size_t len)
{
    int w = 0;

    while (w < WORDS && (strlen(words[w]) > len || memcmp(text, words[w], strlen(words[w])) != 0))
        w++;
    return w;
}

static bool has_word(const char *text, size_t len, int word)
{
    for (size_t i = 0; i < len; i++) {
        if (word_at(text + i, len - i) == word)
            return true;
    }
    return false;
}

static bool is_selector(const char *text, size_t len)
{
    const char *colon = memchr(text, ':', len);

    if (!colon || colon == text || colon == text + len - 1 || memchr(text, '{', (size_t)(colon - text)) ||
        len >= VALUE_MAX / 2)
        return false;
    for (size_t i = 0; i < len; i++) {
        int w = word_at(text + i, len - i);

        if (w < WORDS)
            i += strlen(words[w]) - 1;
        else if (text[i] == '{' || text[i] == '}')
            return false;
    }
    return true;
}

int spire_selectors_check(const char *setting, char *error, size_t error_size)
{
    size_t count = 0;

    for (const char *at = setting + strspn(setting, separators); *at; at += strspn(at, separators)) {
        size_t len = strcspn(at, separators);

        if (!is_selector(at, len)) {
            snprintf(
                error, error_size,
                "\"%.*s\" is not TYPE:VALUE, with {trust-domain}, {namespace}, {account} or {pod-uid} in "
                "the value at most",
                (int)(len < 100 ? len : 100), at);
            return -EINVAL;
        }
        count++;
        at += len;
    }
    if (count && count <= SPIRE_SELECTORS_MAX)
        return 0;
    snprintf(error, error_size, "%zu selectors, and not 1 to %d", count, SPIRE_SELECTORS_MAX);
    return -EINVAL;
}

/* Returns how long the value is; -ENAMETOOLONG. */
static int fill(const char *pattern, size_t len, const struct piece parts[WORDS], char value[VALUE_MAX])
{
    size_t n = 0;

    for (size_t i = 0; i < len;) {
        int w = word_at(pattern + i, len - i);
        struct piece t = w < WORDS ? parts[w] : (struct piece){pattern + i, 1};

        if (t.len >= VALUE_MAX - n)
            return -ENAMETOOLONG;
        if (t.len)
            memcpy(value + n, t.at, t.len);
        n += t.len;
        i += w < WORDS ? strlen(words[w]) : 1;
    }
    value[n] = '\0';
    return (int)n;
}

static int put(const char *selector, size_t len, const struct piece parts[WORDS], struct wire_writer *w)
{
    size_t type = (size_t)((const char *)memchr(selector, ':', len) - selector);
    struct wire_writer one = {};
    char value[VALUE_MAX];
    int r = fill(selector + type + 1, len - type - 1, parts, value);

    if (r < 0)
        return r;
    wire_put_bytes(&one, SELECTOR_TYPE, selector, type);
    wire_put_bytes(&one, SELECTOR_VALUE, value, (size_t)r);
    wire_put_message(w, REQUEST_SELECTOR, &one);
    return 0;
}

static int put_for_each(const char *selector, size_t len, const struct piece parts[WORDS],
                        const struct spire_uids *uids, struct wire_writer *w)
{
    struct piece with_uid[WORDS];
    int r = 0;

    memcpy(with_uid, parts, sizeof(with_uid));
    for (size_t i = 0; r == 0 && i < uids->len; i++) {
        with_uid[POD_UID] = (struct piece){uids->items[i], strlen(uids->items[i])};
        r = put(selector, len, with_uid, w);
    }
    return r;
}

int spire_selectors_put(const char *setting, const char *uri, const struct spire_uids *uids,
                        struct wire_writer *ret)
{
    struct wire_writer w = {};
    struct spiffe s;
    int r = spiffe_parse(uri, strlen(uri), &s);

    for (const char *at = setting + strspn(setting, separators); r == 0 && *at;
         at += strspn(at, separators)) {
        size_t len = strcspn(at, separators);
        const struct piece parts[WORDS] = {
            [TRUST_DOMAIN] = {s.trust_domain, s.trust_domain_len},
            [NAMESPACE] = {s.namespace, s.namespace_len},
            [ACCOUNT] = {s.service_account, s.service_account_len},
        };

        r = has_word(at, len, POD_UID) ? put_for_each(at, len, parts, uids, &w) : put(at, len, parts, &w);
        at += len;
    }
    if (r == -ENAMETOOLONG)
        r = -EINVAL;
    if (r == 0 && w.failed)
        r = -ENOMEM;
    if (r == 0 && !w.len)
        r = -ENODATA;
    if (r < 0)
        wire_writer_clear(&w);
    else
        *ret = w;
    return r;
}
