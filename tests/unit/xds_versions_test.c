/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proxy/xds_versions.h"

struct seen {
    size_t len;
    char text[256];
};

static void note(void *data, const char *name, size_t name_len, const char *version, size_t version_len)
{
    struct seen *s = data;

    s->len += (size_t)snprintf(s->text + s->len, sizeof(s->text) - s->len, "%.*s=%.*s;", (int)name_len, name,
                               (int)version_len, version);
}

static const char *all(const struct xds_versions *v, struct seen *s)
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
