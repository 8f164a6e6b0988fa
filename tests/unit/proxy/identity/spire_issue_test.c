/* SPDX-License-Identifier: Apache-2.0 */
/* Certificate and roots come apart, and are used together or not at all. */
#include "proxy/identity/spire_issue.h"

#include <errno.h>

#include "tests/unit/proxy/identity/spire_test.h"

static struct spire s;
static struct spire_svid svid;
static struct bundles *bundles;
static struct issued issued;
static enum bruma_reason reason;
static char error[200];

static STACK_OF(X509) * roots_of(const struct test_ca *ca)
{
    STACK_OF(X509) *roots = NULL;

    cr_assert(pem_certificates(ca->pem, &roots, error, sizeof(error)) == 0, "%s", error);
    return roots;
}

static void set_up(void)
{
    s = spire(WEB);
    svid.certificate = (struct certificate){.chain = {test_pem(s.cert)}, .chain_len = 1};
    svid.key = s.key;
    EVP_PKEY_up_ref(s.key);
    svid.federated[svid.federated_len++] = strdup("far.domain");
    bundles = bundles_new();
}

static void tear_down(void)
{
    issued_clear(&issued);
    spire_svid_clear(&svid);
    bundles_unref(bundles);
    spire_free(&s);
}

TestSuite(spire_issue, .init = set_up, .fini = tear_down);

static int give(const char *uri)
{
    issued_clear(&issued);
    return spire_issue(uri, &svid.certificate, svid.key, &svid, bundles, &issued, &reason, error,
                       sizeof(error));
}

static bool refused(enum bruma_reason why, const char *text)
{
    bool so = give(WEB) == -EBADMSG && reason == why && !strcmp(error, text) && !issued.key;

    cr_expect(so, "%d: %s", reason, error);
    return so;
}

Test(spire_issue, with_the_roots_that_it_is_federated_with)
{
    cr_assert(bundles_put(bundles, DOMAIN, roots_of(&s.ca)) == 0);
    cr_expect(give(WEB) == 0 && issued.federated->len == 0, "%s", error);
    cr_assert(bundles_put(bundles, "far.domain", roots_of(&s.ca)) == 0);
    cr_assert(bundles_put(bundles, "third.domain", roots_of(&s.ca)) == 0);
    cr_expect(give(WEB) == 0 && issued.federated->len == 1, "%s", error);
    cr_expect(bundles_find(issued.federated, "far.domain", strlen("far.domain")));
    cr_expect(EVP_PKEY_eq(issued.key, s.key) == 1);
    cr_expect_str_eq(issued.certificate.roots, s.ca.pem);
}

Test(spire_issue, nothing_without_the_roots_of_its_trust_domain)
{
    cr_expect(
        refused(BRUMA_REASON_BUNDLE_INVALID, "the agent has sent no bundle of the identity's trust domain"));
    cr_assert(bundles_put(bundles, "far.domain", roots_of(&s.ca)) == 0);
    cr_expect(
        refused(BRUMA_REASON_BUNDLE_INVALID, "the agent has sent no bundle of the identity's trust domain"));
}

Test(spire_issue, what_does_not_fit)
{
    struct test_ca other = test_ca();

    cr_assert(bundles_put(bundles, DOMAIN, roots_of(&other)) == 0);
    cr_expect(
        refused(BRUMA_REASON_SVID_INVALID, "the certificate is not signed by the roots that come with it"));
    cr_assert(bundles_put(bundles, DOMAIN, roots_of(&s.ca)) == 0);
    cr_expect(give("spiffe://" DOMAIN "/ns/shop/sa/cart") == -EBADMSG);
    cr_expect_str_eq(error, "the certificate is for another identity");
    EVP_PKEY_free(svid.key);
    svid.key = other.key;
    EVP_PKEY_up_ref(other.key);
    cr_expect(refused(BRUMA_REASON_SVID_INVALID, "the certificate is for another key"));
    test_ca_free(&other);
}

Test(spire_issue, what_is_the_same)
{
    struct issued before;

    cr_assert(bundles_put(bundles, DOMAIN, roots_of(&s.ca)) == 0);
    cr_assert(give(WEB) == 0);
    before = issued;
    issued = (struct issued){};
    cr_expect(give(WEB) == 0 && spire_issue_same(&before, &issued));
    cr_assert(bundles_put(bundles, "far.domain", roots_of(&s.ca)) == 0);
    cr_expect(give(WEB) == 0 && !spire_issue_same(&before, &issued), "it trusts one more");
    issued_clear(&before);
}
