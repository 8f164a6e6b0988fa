/* SPDX-License-Identifier: Apache-2.0 */
/* Trust domains that are federated: a peer is verified by the roots of its own trust domain, and by no
 * others. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "proxy/tls/tls_library.h"
#include "tests/unit/proxy/tls/tls_pair.h"

#define FAR   "far.domain"
#define THERE "spiffe://" FAR "/ns/shop/sa/cart"

TestSuite(tls_federation, .init = tls_library_init, .timeout = 60);

static STACK_OF(X509) * roots_of(const struct test_ca *ca)
{
    STACK_OF(X509) *roots = NULL;
    char error[100];

    cr_assert(pem_certificates(ca->pem, &roots, error, sizeof(error)) == 0, "%s", error);
    return roots;
}

/* Makes it trust the CA for the trust domain; ca NULL: nobody but its own. */
static struct tls_context *trusting(struct tls_context *c, const char *trust_domain, const struct test_ca *ca)
{
    struct bundles *set = bundles_new();

    if (ca)
        cr_assert(bundles_put(set, trust_domain, roots_of(ca)) == 0);
    cr_assert(tls_context_federate(c, set, true) == 0);
    bundles_unref(set);
    return c;
}

/* Whether they meet; else *reason is that of the side that refuses. Takes the contexts. */
static bool meet(struct tls_context *c, struct tls_context *s, enum bruma_reason *reason)
{
    struct pair p = {};
    int client, server;

    start(&p, c, s, s->identity);
    handshake(&p, &client, &server);
    if (client == 1 && server == 1) {
        cr_expect_str_eq(p.client.peer_identity, s->identity);
        cr_expect_str_eq(p.server.peer_identity, c->identity);
    }
    *reason = client < 0 ? p.client.reason : p.server.reason;
    end(&p);
    tls_context_unref(c);
    tls_context_unref(s);
    return client == 1 && server == 1;
}

struct domains {
    struct test_ca near, far;
    enum bruma_reason reason;
};

static struct domains domains(void)
{
    return (struct domains){.near = test_ca(), .far = test_ca()};
}

static void domains_end(struct domains *d)
{
    test_ca_free(&d->near);
    test_ca_free(&d->far);
}

static bool refused(struct domains *d, struct tls_context *c, struct tls_context *s, enum bruma_reason why)
{
    bool met = meet(c, s, &d->reason);

    cr_expect(met || d->reason == why, "%d, not %d", d->reason, why);
    return !met && d->reason == why;
}

Test(tls_federation, two_domains_meet_in_both_directions)
{
    struct domains d = domains();

    cr_expect(meet(trusting(good(&d.near, CLIENT), FAR, &d.far),
                   trusting(good(&d.far, THERE), "cluster.local", &d.near), &d.reason));
    cr_expect(meet(trusting(good(&d.far, THERE), "cluster.local", &d.near),
                   trusting(good(&d.near, SERVER), FAR, &d.far), &d.reason));
    domains_end(&d);
}

Test(tls_federation, whoever_is_not_federated_is_refused_by_name)
{
    struct domains d = domains();

    cr_expect(refused(&d, trusting(good(&d.near, CLIENT), NULL, NULL),
                      trusting(good(&d.far, THERE), "cluster.local", &d.near),
                      BRUMA_REASON_PEER_TRUST_DOMAIN));
    cr_expect(refused(&d, trusting(good(&d.near, CLIENT), FAR, &d.far),
                      trusting(good(&d.far, THERE), NULL, NULL), BRUMA_REASON_PEER_TRUST_DOMAIN));
    domains_end(&d);
}

Test(tls_federation, the_own_roots_do_not_speak_for_another_domain)
{
    struct domains d = domains();
    const char *third = "spiffe://third.domain/ns/shop/sa/cart";

    cr_expect(refused(&d, trusting(good(&d.near, CLIENT), FAR, &d.far),
                      trusting(good(&d.near, THERE), "cluster.local", &d.near), BRUMA_REASON_PEER_UNTRUSTED));
    cr_expect(refused(&d, trusting(good(&d.near, THERE), "cluster.local", &d.near),
                      trusting(good(&d.near, SERVER), FAR, &d.far), BRUMA_REASON_PEER_UNTRUSTED));
    cr_expect(refused(&d, trusting(good(&d.near, CLIENT), FAR, &d.far), good(&d.near, third),
                      BRUMA_REASON_PEER_TRUST_DOMAIN));
    cr_expect(refused(&d, trusting(good(&d.near, third), "cluster.local", &d.near),
                      trusting(good(&d.near, SERVER), FAR, &d.far), BRUMA_REASON_PEER_TRUST_DOMAIN));
    domains_end(&d);
}

Test(tls_federation, roots_of_another_domain_do_not_speak_for_the_own_one)
{
    struct domains d = domains();

    cr_expect(refused(&d, trusting(good(&d.near, CLIENT), FAR, &d.far),
                      context(&d.far, &d.near, SERVER, "URI:" SERVER, -60, 3600),
                      BRUMA_REASON_PEER_UNTRUSTED));
    /* nor a bundle that claims to be the own domain's */
    cr_expect(refused(&d, trusting(good(&d.near, CLIENT), "cluster.local", &d.far),
                      context(&d.far, &d.near, SERVER, "URI:" SERVER, -60, 3600),
                      BRUMA_REASON_PEER_UNTRUSTED));
    domains_end(&d);
}

Test(tls_federation, the_roots_of_a_meshs_ca_speak_for_all_without_a_bundle)
{
    struct domains d = domains();
    struct tls_context *c = good(&d.near, CLIENT), *federated = good(&d.near, CLIENT);
    struct bundles *set = bundles_new();
    struct tls_context *s = trusting(good(&d.near, THERE), "cluster.local", &d.near);

    cr_expect(meet(c, tls_context_ref(s), &d.reason), "as before there was any federation");
    cr_assert(bundles_put(set, FAR, roots_of(&d.far)) == 0);
    cr_assert(tls_context_federate(federated, set, false) == 0);
    bundles_unref(set);
    cr_expect(refused(&d, federated, s, BRUMA_REASON_PEER_UNTRUSTED));
    domains_end(&d);
}

Test(tls_federation, what_was_verified_is_not_remembered_for_other_roots)
{
    struct domains d = domains();
    struct tls_context *far = trusting(good(&d.far, THERE), "cluster.local", &d.near),
                       *near = trusting(good(&d.near, CLIENT), FAR, &d.far),
                       *later = trusting(good(&d.near, CLIENT), FAR, &d.near);
    struct pair p = {}, again = {};
    int client, server;

    start(&p, near, far, THERE);
    handshake(&p, &client, &server);
    cr_assert(client == 1 && server == 1);
    start(&again, later, far, THERE);
    again.client.buffers = &p.buffers[0]; /* the same worker */
    handshake(&again, &client, &server);
    cr_expect(client < 0 && again.client.reason == BRUMA_REASON_PEER_UNTRUSTED, "%s", again.client.error);
    end(&again);
    end(&p);
    tls_context_unref(near);
    tls_context_unref(far);
    tls_context_unref(later);
    domains_end(&d);
}

static bool trusts_the_same(const struct tls_context *a, const struct tls_context *b)
{
    return !memcmp(a->trust_digest, b->trust_digest, sizeof(a->trust_digest));
}

/* By which sessions are resumed, or not. */
Test(tls_federation, what_is_trusted_has_a_digest)
{
    struct domains d = domains();
    struct tls_context *a = good(&d.near, CLIENT), *b = good(&d.near, CLIENT);
    struct bundles *set = bundles_new(), *turned = bundles_new();

    cr_expect(trusts_the_same(a, b));
    trusting(a, FAR, &d.far);
    cr_expect(!trusts_the_same(a, b));
    trusting(b, FAR, &d.far);
    cr_expect(trusts_the_same(a, b));
    trusting(b, "other.domain", &d.far);
    cr_expect(!trusts_the_same(a, b));
    trusting(b, FAR, &d.near);
    cr_expect(!trusts_the_same(a, b));
    cr_assert(bundles_put(set, FAR, roots_of(&d.far)) == 0 && bundles_put(set, "x", roots_of(&d.near)) == 0);
    cr_assert(bundles_put(turned, "x", roots_of(&d.near)) == 0 &&
              bundles_put(turned, FAR, roots_of(&d.far)) == 0);
    cr_assert(tls_context_federate(a, set, true) == 0 && tls_context_federate(b, turned, true) == 0);
    cr_expect(trusts_the_same(a, b));
    cr_assert(tls_context_federate(b, turned, false) == 0);
    cr_expect(!trusts_the_same(a, b));
    bundles_unref(set);
    bundles_unref(turned);
    tls_context_unref(a);
    tls_context_unref(b);
    domains_end(&d);
}

Test(tls_federation, a_set_of_bundles)
{
    struct domains d = domains();
    struct bundles *a = bundles_new(), *b = bundles_new(), *all = bundles_new();

    cr_expect(bundles_same(NULL, a) && bundles_same(a, b) && !bundles_find(NULL, FAR, strlen(FAR)));
    cr_assert(bundles_put(a, FAR, roots_of(&d.far)) == 0 && bundles_put(b, FAR, roots_of(&d.near)) == 0);
    cr_expect(!bundles_same(a, b) && !bundles_same(a, NULL) && !bundles_same(NULL, a));
    cr_assert(bundles_fill(all, a) == 0 && bundles_fill(all, b) == 0 && bundles_fill(all, NULL) == 0);
    cr_expect(bundles_same(a, all), "what is there stays");
    cr_assert(bundles_put(b, FAR, roots_of(&d.far)) == 0);
    cr_expect(bundles_same(a, b) && b->len == 1, "it was replaced");
    cr_expect(bundles_find(a, FAR, strlen(FAR)) && !bundles_find(a, FAR, strlen(FAR) - 1));
    cr_expect(bundles_put(a, FAR, NULL) == -ENOMEM && a->len == 1);
    for (int i = 1; i < BUNDLES_MAX; i++) {
        char name[20];

        snprintf(name, sizeof(name), "%d.domain", i);
        cr_assert(bundles_put(a, name, roots_of(&d.far)) == 0);
    }
    cr_expect(bundles_put(a, "one.more", roots_of(&d.far)) == -E2BIG);
    bundles_unref(a);
    bundles_unref(b);
    bundles_unref(all);
    domains_end(&d);
}

Test(tls_federation, certificates_in_pem)
{
    struct test_ca ca = test_ca();
    char text[8192], error[100];
    STACK_OF(X509) *all = NULL;

    snprintf(text, sizeof(text), "# a comment\n%s\n%s", ca.pem, ca.pem);
    cr_assert(pem_certificates(text, &all, error, sizeof(error)) == 0);
    cr_expect(sk_X509_num(all) == 2);
    sk_X509_pop_free(all, X509_free);
    text[strlen(text) - 60] = '!';
    cr_expect(pem_certificates(text, &all, error, sizeof(error)) == -EBADMSG &&
              !strcmp(error, "a damaged certificate"));
    cr_expect(pem_certificates("", &all, error, sizeof(error)) == -EBADMSG &&
              !strcmp(error, "no certificate (PEM)"));
    cr_expect(pem_certificates("-----BEGIN CERTIFICATE-----\n", &all, error, sizeof(error)) == -EBADMSG);
    test_ca_free(&ca);
}
