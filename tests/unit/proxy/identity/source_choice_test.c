/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/source_choice.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct source_choice parsed(const char *text)
{
    struct source_choice c;
    char error[256] = "";

    cr_assert(source_choice_parse(text, &c, error, sizeof(error)) == 0, "%s: %s", text, error);
    return c;
}

static enum source_kind of(const struct source_choice *c, const char *trust_domain)
{
    return source_choice_of(c, trust_domain, strlen(trust_domain));
}

Test(source_choice, one_for_all)
{
    struct source_choice c = parsed("");

    cr_expect(of(&c, "a.domain") == SOURCE_CA && !source_choice_has(&c, SOURCE_FILES));
    c = parsed("files");
    cr_expect(of(&c, "a.domain") == SOURCE_FILES && !source_choice_has(&c, SOURCE_CA));
}

Test(source_choice, single_trust_domains)
{
    struct source_choice c = parsed(" a.domain=files,b.domain=ca , c.domain=files");

    cr_expect(of(&c, "a.domain") == SOURCE_FILES && of(&c, "c.domain") == SOURCE_FILES);
    cr_expect(of(&c, "b.domain") == SOURCE_CA && of(&c, "a.domai") == SOURCE_CA && of(&c, "") == SOURCE_CA);
    cr_expect(source_choice_has(&c, SOURCE_CA) && source_choice_has(&c, SOURCE_FILES));
    c = parsed("spire,b.domain=ca");
    cr_expect(of(&c, "a.domain") == SOURCE_SPIRE && of(&c, "b.domain") == SOURCE_CA);
    c = parsed("b.domain=ca files");
    cr_expect(of(&c, "x.domain") == SOURCE_FILES && of(&c, "b.domain") == SOURCE_CA);
}

Test(source_choice, what_is_none)
{
    static const char *const bad[] = {"vault",        "spir",
                                      "file",         "=files",
                                      "a.domain=",    "a.domain",
                                      "files,ca",     "a.domain=x",
                                      "a=files,a=ca", "a.domain=files=ca"};
    char error[256], many[2000] = "";
    struct source_choice c;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        error[0] = '\0';
        cr_expect(source_choice_parse(bad[i], &c, error, sizeof(error)) == -EINVAL && *error, "%s", bad[i]);
    }
    for (int i = 0; i <= SOURCE_CHOICES_MAX; i++)
        sprintf(many + strlen(many), "%d.domain=ca,", i);
    cr_expect(source_choice_parse(many, &c, error, sizeof(error)) == -EINVAL);
    memset(many, 'x', 300);
    strcpy(many + 300, "=ca");
    cr_expect(source_choice_parse(many, &c, error, sizeof(error)) == -EINVAL);
}
