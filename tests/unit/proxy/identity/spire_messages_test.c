/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/spire_messages.h"

#include <errno.h>

#include "proxy/identity/spire_trust.h"
#include "tests/unit/proxy/identity/spire_test.h"

static struct spire s;
static struct wire_writer message;
static struct spire_svid svid;
static struct spire_trust trust;
static char error[200];

static void set_up(void)
{
    s = spire(WEB);
}

static void tear_down(void)
{
    wire_writer_clear(&message);
    spire_svid_clear(&svid);
    spire_trust_clear(&trust);
    spire_free(&s);
}

TestSuite(spire_messages, .init = set_up, .fini = tear_down);

static int svids(void)
{
    int r;

    *error = '\0';
    spire_svid_clear(&svid);
    r = spire_svids_decode(message.data, message.len, WEB, &svid, error, sizeof(error));
    cr_expect((r == 0) == !*error, "%s", error);
    return r;
}

/* Returns what the message is; *ret_changed: whether others are trusted. */
static int bundles(bool *ret_changed)
{
    int r;

    *error = '\0';
    cr_assert(spire_trust_begin(&trust) == 0);
    r = spire_bundles_decode(message.data, message.len, spire_trust_put, &trust, error, sizeof(error));
    *ret_changed = spire_trust_end(&trust, r == 0);
    wire_writer_clear(&message);
    return r;
}

static int roots_of(const char *trust_domain)
{
    const struct bundle *b = bundles_find(trust.bundles, trust_domain, strlen(trust_domain));

    return b ? sk_X509_num(b->roots) : 0;
}

Test(spire_messages, the_identitys_own_among_others)
{
    struct test_ca between = test_ca_below(&s.ca, -60, 3600);
    struct der middle = der_of(between.cert);
    struct spire other = spire("spiffe://" DOMAIN "/ns/shop/sa/cart");
    char expected[8192];
    char *leaf = test_pem(s.cert);

    put_svid(&message, DOMAIN, "/ns/shop/sa/cart", other.leaf, (struct der){}, other.key_der);
    put_svid(&message, DOMAIN, PATH, s.leaf, middle, s.key_der);
    put_svid(&message, DOMAIN, PATH, other.leaf, (struct der){},
             other.key_der); /* a second one: by its hint */
    wire_put_string(&message, 2, "spiffe://far.domain");
    wire_put_string(&message, 2, "third.domain");
    cr_assert(svids() == 0, "%s", error);
    snprintf(expected, sizeof(expected), "%s%s", leaf, between.pem);
    cr_expect_str_eq(svid.certificate.chain[0], expected);
    cr_expect(EVP_PKEY_eq(svid.key, s.key) == 1);
    cr_expect(svid.others == 2 && svid.federated_len == 2);
    cr_expect_str_eq(svid.federated[0], "far.domain");
    cr_expect_str_eq(svid.federated[1], "third.domain");
    free(leaf);
    der_free(&middle);
    test_ca_free(&between);
    spire_free(&other);
}

Test(spire_messages, no_entry_is_no_fault)
{
    cr_expect(svids() == 0 && !svid.key && !svid.others, "an empty message");
    put_svid(&message, DOMAIN, PATH "2", s.leaf, (struct der){}, s.key_der);
    put_svid(&message, "near.domai", "n" PATH, s.leaf, (struct der){}, s.key_der);
    put_svid(&message, "", PATH, s.leaf, (struct der){}, s.key_der);
    cr_expect(svids() == 0 && !svid.key && svid.others == 3);
}

Test(spire_messages, certificates_and_keys_that_are_none)
{
    const struct der garbage = {(unsigned char *)"garbage", 7}, none = {};
    const struct der cut = {s.leaf.data, s.leaf.len - 1}, cut_key = {s.key_der.data, s.key_der.len - 1};
    const struct {
        struct der leaf, between, key;
        const char *why;
    } bad[] = {
        {garbage, none, s.key_der, "a damaged certificate"},
        {cut, none, s.key_der, "a damaged certificate"},
        {s.leaf, garbage, s.key_der, "a damaged certificate"},
        {none, none, s.key_der, "no certificate (DER)"},
        {s.leaf, none, none, "no private key (DER, PKCS#8)"},
        {s.leaf, none, garbage, "no private key (DER, PKCS#8)"},
        {s.leaf, none, cut_key, "no private key (DER, PKCS#8)"},
        {s.leaf, none, s.leaf, "no private key (DER, PKCS#8)"},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        wire_writer_clear(&message);
        put_svid(&message, DOMAIN, PATH, bad[i].leaf, bad[i].between, bad[i].key);
        cr_expect(svids() == -EBADMSG, "%zu", i);
        cr_expect_str_eq(error, bad[i].why, "%zu: %s", i, error);
    }
}

Test(spire_messages, a_key_with_something_behind_it)
{
    struct der more = {malloc(s.key_der.len + 1), s.key_der.len + 1};

    memcpy(more.data, s.key_der.data, s.key_der.len);
    more.data[s.key_der.len] = 0;
    put_svid(&message, DOMAIN, PATH, s.leaf, (struct der){}, more);
    cr_expect(svids() == -EBADMSG);
    free(more.data);
}

Test(spire_messages, more_than_there_is_room_for)
{
    struct der many = {malloc(s.leaf.len * CERTIFICATE_CHAIN_MAX), s.leaf.len * CERTIFICATE_CHAIN_MAX};

    for (size_t i = 0; i < CERTIFICATE_CHAIN_MAX; i++)
        memcpy(many.data + i * s.leaf.len, s.leaf.data, s.leaf.len);
    put_svid(&message, DOMAIN, PATH, many, (struct der){}, s.key_der);
    cr_expect(svids() == 0, "%s", error);
    wire_writer_clear(&message);
    put_svid(&message, DOMAIN, PATH, many, s.leaf, s.key_der);
    cr_expect(svids() == -E2BIG);
    free(many.data);
    wire_writer_clear(&message);
    for (int i = 0; i <= BUNDLES_MAX; i++)
        wire_put_string(&message, 2, "spiffe://far.domain");
    cr_expect(svids() == -E2BIG);
}

Test(spire_messages, cut_off_anywhere)
{
    size_t len;

    put_svid(&message, DOMAIN, PATH, s.leaf, (struct der){}, s.key_der);
    len = message.len;
    for (message.len = 1; message.len < len; message.len++)
        cr_expect(svids() == -EBADMSG && !svid.key, "%zu of %zu", message.len, len);
    cr_expect(svids() == 0 && svid.key);
}

Test(spire_messages, names_of_trust_domains_that_are_none)
{
    static const char *const bad[] = {"spiffe://", "", "spiffe://far.domain/ns/a/sa/b", "a/b"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        wire_writer_clear(&message);
        wire_put_bytes(&message, 2, bad[i], strlen(bad[i]));
        cr_expect(svids() == -EBADMSG, "%s", bad[i]);
    }
    wire_writer_clear(&message);
    wire_put_bytes(&message, 2, "far\0domain", 10);
    cr_expect(svids() == -EBADMSG);
}

Test(spire_messages, bundles_of_trust_domains)
{
    struct der two = {malloc(2 * s.root.len), 2 * s.root.len};
    bool changed;

    memcpy(two.data, s.root.data, s.root.len);
    memcpy(two.data + s.root.len, s.root.data, s.root.len);
    put_bundle(&message, 1, "spiffe://" DOMAIN, s.root);
    put_bundle(&message, 1, "far.domain", two);
    put_bundle(&message, 1, "spiffe://empty.domain", (struct der){});
    cr_expect(bundles(&changed) == 0 && changed, "%s", error);
    cr_expect(roots_of(DOMAIN) == 1 && roots_of("far.domain") == 2 && !roots_of("empty.domain"));
    put_bundle(&message, 1, "spiffe://" DOMAIN, s.root);
    put_bundle(&message, 1, "far.domain", two);
    cr_expect(bundles(&changed) == 0 && !changed, "the same again");
    put_bundle(&message, 1, "spiffe://" DOMAIN, s.root);
    cr_expect(bundles(&changed) == 0 && changed && !roots_of("far.domain"), "one less");
    cr_expect(bundles(&changed) == 0 && changed && !roots_of(DOMAIN), "none");
    free(two.data);
}

Test(spire_messages, a_bad_bundle_leaves_the_last_one)
{
    const struct der garbage = {(unsigned char *)"garbage", 7};
    struct test_ca far = test_ca();
    struct der far_root = der_of(far.cert);
    bool changed;

    put_bundle(&message, 1, "spiffe://" DOMAIN, s.root);
    cr_expect(bundles(&changed) == 0 && changed);
    put_bundle(&message, 1, "spiffe://" DOMAIN, garbage);
    put_bundle(&message, 1, "spiffe://far.domain", far_root);
    put_bundle(&message, 1, "spiffe://third.domain", garbage);
    cr_expect(bundles(&changed) == 0 && changed && trust.bad == 2);
    cr_expect(roots_of(DOMAIN) == 1 && roots_of("far.domain") == 1 && !roots_of("third.domain"));
    put_bundle(&message, 1, "spiffe://far.domain", far_root);
    put_bundle(&message, 1, "", far_root);
    cr_expect(bundles(&changed) == -EBADMSG && !changed && roots_of(DOMAIN) == 1, "nothing of a bad message");
    der_free(&far_root);
    test_ca_free(&far);
}

Test(spire_messages, too_many_trust_domains_change_nothing)
{
    char name[32];
    bool changed;

    put_bundle(&message, 1, "spiffe://" DOMAIN, s.root);
    cr_expect(bundles(&changed) == 0 && changed);
    for (int i = 0; i <= BUNDLES_MAX; i++) {
        snprintf(name, sizeof(name), "d%d.domain", i);
        put_bundle(&message, 1, name, s.root);
    }
    cr_expect(bundles(&changed) == -E2BIG && !changed && roots_of(DOMAIN) == 1);
    cr_expect_str_eq(error, "too many trust domains");
}

/* X509SVID of the Workload API as field 1. */
static void put_workload(const char *uri, struct der bundle)
{
    struct wire_writer w = {};

    wire_put_string(&w, 1, uri);
    put_der(&w, 2, s.leaf);
    put_der(&w, 3, s.key_der);
    put_der(&w, 4, bundle);
    wire_put_message(&message, 1, &w);
}

static int workload(void)
{
    int r;

    *error = '\0';
    spire_svid_clear(&svid);
    cr_assert(spire_trust_begin(&trust) == 0);
    r = spire_workload_decode(message.data, message.len, WEB, &svid, spire_trust_put, &trust, error,
                              sizeof(error));
    spire_trust_end(&trust, r == 0);
    return r;
}

Test(spire_messages, a_workloads_own_answer)
{
    put_workload("spiffe://" DOMAIN "/ns/shop/sa/cart", s.root);
    put_workload(WEB, s.root);
    put_bundle(&message, 3, "spiffe://far.domain", s.root);
    cr_assert(workload() == 0, "%s", error);
    cr_expect(EVP_PKEY_eq(svid.key, s.key) == 1 && svid.others == 1);
    cr_expect(svid.federated_len == 1 && !strcmp(svid.federated[0], "far.domain"));
    cr_expect(roots_of(DOMAIN) == 1 && roots_of("far.domain") == 1);
    for (size_t len = message.len - 1; len; len--) {
        message.len = len;
        cr_expect(workload() == -EBADMSG || svid.others == 1 || svid.key, "%zu", len);
    }
}
