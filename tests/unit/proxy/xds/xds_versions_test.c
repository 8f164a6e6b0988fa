/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proxy/xds/xds_versions.h"

struct seen {
    size_t len;
    char text[256];
};

static bool note(void *data, const char *name, size_t name_len, const char *version, size_t version_len)
{
    struct seen *s = data;

    s->len += (size_t)snprintf(s->text + s->len, sizeof(s->text) - s->len, "%.*s=%.*s;", (int)name_len, name,
                               (int)version_len, version);
    return true;
}

static const char *all(struct xds_versions *v, struct seen *s)
{
    *s = (struct seen){};
    xds_versions_each(v, note, s);
    return s->text;
}

/* istiod gives policies no version: they are named in the first request of a connection all the same. */
Test(xds_versions, resources_without_a_version)
{
    struct xds_versions *v;
    struct seen s;

    cr_assert(xds_versions_new(&v) == 0);
    cr_assert(xds_versions_set(v, "shop/p", 6, NULL, 0) == 0);
    cr_expect(!strcmp(all(v, &s), "shop/p=;"), "%s", s.text);
    cr_assert(xds_versions_set(v, "shop/p", 6, NULL, 0) == 0);
    cr_assert(xds_versions_set(v, "shop/p", 6, "v2", 2) == 0);
    cr_expect(!strcmp(all(v, &s), "shop/p=v2;"), "%s", s.text);
    cr_assert(xds_versions_set(v, "shop/p", 6, NULL, 0) == 0);
    cr_expect(!strcmp(all(v, &s), "shop/p=;") && xds_versions_count(v) == 1, "%s", s.text);
    xds_versions_remove(v, "shop/p", 6);
    cr_expect(!*all(v, &s) && xds_versions_count(v) == 0);
    xds_versions_free(&v);
}

Test(xds_versions, many)
{
    struct xds_versions *v;
    char name[32];

    cr_assert(xds_versions_new(&v) == 0);
    for (int i = 0; i < 1000; i++)
        cr_assert(xds_versions_set(v, name, (size_t)snprintf(name, sizeof(name), "ns/%d", i), "1", 1) == 0);
    cr_expect(xds_versions_count(v) == 1000);
    for (int i = 0; i < 1000; i += 2)
        xds_versions_remove(v, name, (size_t)snprintf(name, sizeof(name), "ns/%d", i));
    cr_expect(xds_versions_count(v) == 500);
    xds_versions_free(&v);
}

static bool take_even(void *data, const char *name, size_t name_len, const char *version, size_t version_len)
{
    (void)data, (void)version, (void)version_len;
    return (name[name_len - 1] - '0') % 2 == 0;
}

static void note_gone(void *data, const char *name, size_t name_len)
{
    struct seen *s = data;

    s->len += (size_t)snprintf(s->text + s->len, sizeof(s->text) - s->len, "%.*s;", (int)name_len, name);
}

/* Of what was not told, all that is mentioned stays: set, mentioned alone, or removed by name. */
Test(xds_versions, what_was_not_told_and_is_not_mentioned_goes)
{
    struct xds_versions *v;
    struct seen s = {};
    char name[8];

    cr_assert(xds_versions_new(&v) == 0);
    for (int i = 0; i < 10; i++)
        cr_assert(xds_versions_set(v, name, (size_t)snprintf(name, sizeof(name), "n%d", i), "1", 1) == 0);
    xds_versions_each(v, take_even, NULL);
    cr_expect(xds_versions_unsent(v) == 5);
    xds_versions_mention(v, "n1", 2);
    xds_versions_mention(v, "none", 4);
    cr_assert(xds_versions_set(v, "n3", 2, "1", 1) == 0);
    cr_assert(xds_versions_set(v, "n5", 2, "longer", 6) == 0);
    xds_versions_remove(v, "n7", 2);
    cr_expect(xds_versions_unsent(v) == 1);
    xds_versions_sweep(v, note_gone, &s);
    cr_expect(!strcmp(s.text, "n9;") && xds_versions_unsent(v) == 0 && xds_versions_count(v) == 8, "%s",
              s.text);
    /* A new first request begins anew. */
    xds_versions_each(v, take_even, NULL);
    cr_expect(xds_versions_unsent(v) == 3);
    xds_versions_each(v, note, &(struct seen){});
    cr_expect(xds_versions_unsent(v) == 0);
    xds_versions_free(&v);
}
