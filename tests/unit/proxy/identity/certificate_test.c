/* SPDX-License-Identifier: Apache-2.0 */
/* How long a certificate and what it stands on are good. */
#include "proxy/identity/certificate.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/wall.h"
#include "tests/unit/certificates.h"

#define IDENTITY "spiffe://cluster.local/ns/shop/sa/web"
#define NEAR     120 /* seconds, of dates that were made a moment ago */

struct dates {
    long from, until; /* seconds from now */
};

static char error[200];

/* With a CA between the leaf and the root; together: one text for both, as in files. */
static int check(struct dates leaf, struct dates between, bool together, struct certificate *ret)
{
    struct test_ca ca = test_ca(), below = test_ca_below(&ca, between.from, between.until);
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    X509 *cert =
        test_certificate(key, below.cert, below.key, "critical,URI:" IDENTITY, leaf.from, leaf.until);
    struct certificate c = {.chain = {test_pem(cert)}, .chain_len = 1, .roots = strdup(ca.pem)};
    int r;

    if (together) {
        char *both;

        cr_assert(asprintf(&both, "%s%s", c.chain[0], below.pem) > 0);
        free(c.chain[0]);
        c.chain[0] = both;
    } else {
        c.chain[c.chain_len++] = strdup(below.pem);
    }
    error[0] = '\0';
    r = certificate_check(&c, IDENTITY, key, error, sizeof(error));
    *ret = c;
    certificate_clear(&c);
    X509_free(cert);
    EVP_PKEY_free(key);
    test_ca_free(&below);
    test_ca_free(&ca);
    return r;
}

static bool is_near(int64_t seconds, long wanted)
{
    int64_t off = seconds - wall_seconds() - wanted;

    return off > -NEAR && off < NEAR;
}

Test(certificate, lasts_as_long_as_its_whole_chain)
{
    struct certificate c;

    for (int together = 0; together < 2; together++) {
        cr_assert(check((struct dates){-600, 7200}, (struct dates){-6000, 1800}, together, &c) == 0, "%s",
                  error);
        cr_expect(is_near(c.not_before, -600) && is_near(c.not_after, 1800));
        cr_assert(check((struct dates){-6000, 1800}, (struct dates){-600, 7200}, together, &c) == 0, "%s",
                  error);
        cr_expect(is_near(c.not_before, -600) && is_near(c.not_after, 1800));
    }
}

Test(certificate, is_over_with_what_it_stands_on)
{
    struct certificate c;

    for (int together = 0; together < 2; together++) {
        cr_expect(check((struct dates){-600, 7200}, (struct dates){-6000, -60}, together, &c) == -EBADMSG);
        cr_expect_str_eq(error, "a certificate of its chain has expired already");
        cr_expect(check((struct dates){-60, 7200}, (struct dates){-6000, -600}, together, &c) == -EBADMSG);
        cr_expect_str_eq(error, "a certificate of its chain has expired already", "before it was even made");
        cr_expect(check((struct dates){-6000, -60}, (struct dates){-6000, 7200}, together, &c) == -EBADMSG);
        cr_expect_str_eq(error, "the certificate has expired already");
    }
}

Test(certificate, dates_that_make_no_sense)
{
    struct certificate c;

    cr_expect(check((struct dates){7200, 600}, (struct dates){-6000, 7200}, false, &c) == -EBADMSG);
    cr_expect_str_eq(error, "the certificate's dates, or its chain's, make no sense");
    cr_expect(check((struct dates){-600, 7200}, (struct dates){7200, 600}, false, &c) == -EBADMSG);
    cr_expect(check((struct dates){-600, 600}, (struct dates){1200, 7200}, false, &c) == -EBADMSG,
              "never both");
    cr_expect_str_eq(error, "the certificate's dates, or its chain's, make no sense");
}
