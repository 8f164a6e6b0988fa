/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/spire_selectors.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WEB     "spiffe://near.domain/ns/shop/sa/web"
#define DEFAULT "k8s:ns:{namespace},k8s:sa:{account},k8s:pod-uid:{pod-uid}"

/* "type:value type:value" of the request's selectors. */
static const char *requested(const char *setting, const char *uri, const struct spire_uids *uids)
{
    static char text[4096];
    struct wire_writer w = {};
    struct wire_reader r;
    struct wire_field f, part;
    size_t len = 0;

    cr_assert(spire_selectors_put(setting, uri, uids, &w) == 0);
    r = wire_reader(w.data, w.len);
    while (wire_next(&r, &f) > 0) {
        struct wire_reader one = wire_reader(f.bytes, f.len);

        cr_assert(f.number == 1);
        while (wire_next(&one, &part) > 0)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%.*s",
                                    part.number == 2 ? ":"
                                    : len            ? " "
                                                     : "",
                                    (int)part.len, (const char *)part.bytes);
    }
    wire_writer_clear(&w);
    return text;
}

static int checked(const char *setting)
{
    char error[256] = "";
    int r = spire_selectors_check(setting, error, sizeof(error));

    cr_expect((r == 0) == !*error, "%s: %s", setting, error);
    return r;
}

Test(spire_selectors, parts_of_the_identity_and_each_of_its_pods)
{
    const struct spire_uids none = {}, two = {.items = {"u-1", "u-2"}, .len = 2};

    cr_expect_str_eq(requested(DEFAULT, WEB, &two), "k8s:ns:shop k8s:sa:web k8s:pod-uid:u-1 k8s:pod-uid:u-2");
    cr_expect_str_eq(requested(DEFAULT, WEB, &none), "k8s:ns:shop k8s:sa:web");
    cr_expect_str_eq(requested(" unix:user:{account}@{trust-domain} \n", WEB, &none),
                     "unix:user:web@near.domain");
}

Test(spire_selectors, names_are_only_put_where_they_belong)
{
    const struct spire_uids none = {};

    cr_expect_str_eq(requested(DEFAULT, "spiffe://near.domain/ns/{account},k8s:sa:root/sa/web", &none),
                     "k8s:ns:{account},k8s:sa:root k8s:sa:web");
}

Test(spire_selectors, what_is_none)
{
    struct wire_writer w = {};
    const struct spire_uids none = {};
    char uri[SPIRE_UIDS_MAX * 5] = "spiffe://near.domain/ns/shop/sa/";

    cr_expect(spire_selectors_put(DEFAULT, "web", &none, &w) == -EINVAL);
    cr_expect(spire_selectors_put("k8s:pod-uid:{pod-uid}", WEB, &none, &w) == -ENODATA);
    memset(uri + strlen(uri), 'a', sizeof(uri) - strlen(uri) - 1);
    cr_expect(spire_selectors_put(DEFAULT, uri, &none, &w) == -EINVAL);
    cr_expect(!w.data);
}

Test(spire_selectors, settings)
{
    static const char *const bad[] = {
        "",        " , ",    "k8s",         ":x",         "k8s:",           "k8s:{name}",
        "k8s:a{b", "k8s:a}", "{account}:x", "k8s:ns:a b", "k8s:{{account}}"};
    char many[2 * SPIRE_SELECTORS_MAX * 4] = "";

    cr_expect(checked(DEFAULT) == 0);
    cr_expect(checked("docker:label:com.example/app:x") == 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        cr_expect(checked(bad[i]) == -EINVAL, "%s", bad[i]);
    for (int i = 0; i < SPIRE_SELECTORS_MAX; i++)
        strcat(many, "a:b ");
    cr_expect(checked(many) == 0);
    strcat(many, "a:b");
    cr_expect(checked(many) == -EINVAL);
}
