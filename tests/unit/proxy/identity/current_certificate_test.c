/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/current_certificate.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

#include "lib/wall.h"
#include "tests/unit/certificates.h"

#define IDENTITY "spiffe://cluster.local/ns/shop/sa/web"

static struct current_certificate current;

static void begin(void)
{
    current_certificate_init(&current);
}

static void end(void)
{
    current_certificate_destroy(&current);
}

TestSuite(current_certificate, .init = begin, .fini = end);

/* One that is good from and until so many seconds from now. */
static struct tls_context *context(long from, long until)
{
    struct test_ca ca = test_ca();
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    X509 *cert = test_certificate(key, ca.cert, ca.key, "critical,URI:" IDENTITY, from, until);
    char *leaf = test_pem(cert), error[200];
    const char *chain[] = {leaf}, *roots[] = {ca.pem};
    struct tls_context *made;

    cr_assert(tls_context_new(IDENTITY, key, chain, 1, roots, 1, &made, error, sizeof(error)) == 0, "%s",
              error);
    free(leaf);
    X509_free(cert);
    EVP_PKEY_free(key);
    test_ca_free(&ca);
    return made;
}

static bool is_there(void)
{
    struct tls_context *got = current_certificate_get(&current);

    cr_expect(current_certificate_usable(&current) == (got != NULL));
    cr_expect(!got || got == current.context);
    tls_context_unref(got);
    return got != NULL;
}

static bool has_failed(const char *why)
{
    char text[240];
    bool failed = current_certificate_has_failed(&current, text, sizeof(text));

    cr_expect(!strcmp(text, why), "\"%s\", not \"%s\"", text, why);
    return failed;
}

Test(current_certificate, is_none_at_first)
{
    cr_expect(!is_there());
    cr_expect(!has_failed(""));
}

Test(current_certificate, is_good_until_its_end)
{
    uint64_t left;

    current_certificate_set(&current, context(-60, 3600));
    cr_expect(is_there());
    left = current_certificate_time_left(&current);
    cr_expect(left > 3590000 && left <= 3600000, "%llu", (unsigned long long)left);
    current_certificate_set(&current, context(-60, -1));
    cr_expect(!is_there());
    cr_expect(current_certificate_time_left(&current) == 0);
    current_certificate_set(&current, NULL);
    cr_expect(!is_there());
}

Test(current_certificate, is_good_where_the_clock_is_behind_the_cas)
{
    current_certificate_set(&current, context(600, 3600));
    cr_expect(is_there());
}

Test(current_certificate, is_not_good_where_the_clock_was_set_back_since)
{
    current_certificate_set(&current, context(600, 3600));
    current.received_at = wall_seconds() + 700;
    cr_expect(!is_there());
    /* Before its time only: one that is good by the clock as it goes now is good. */
    current_certificate_set(&current, context(-60, 3600));
    current.received_at = wall_seconds() + 700;
    cr_expect(is_there());
}

Test(current_certificate, is_not_to_be_waited_for)
{
    current_certificate_failed(&current, false, "ca_unreachable: connection refused");
    cr_expect(!has_failed("ca_unreachable: connection refused"));
    current_certificate_failed(&current, true, "ca_refused: no");
    cr_expect(has_failed("ca_refused: no"));
    current_certificate_set(&current, context(-60, 3600));
    cr_expect(!has_failed("ca_refused: no"), "there is one");
    current_certificate_set(&current, context(-60, -1));
    cr_expect(has_failed("ca_refused: no"), "there was one");
    current_certificate_succeeded(&current);
    cr_expect(!has_failed(""));
}

static void *read_it(void *data)
{
    unsigned *seen = data;

    for (int i = 0; i < 20000; i++) {
        struct tls_context *got = current_certificate_get(&current);

        *seen += got && !strcmp(got->identity, IDENTITY);
        tls_context_unref(got);
    }
    return NULL;
}

Test(current_certificate, is_replaced_under_its_readers)
{
    struct tls_context *contexts[2] = {context(-60, 3600), context(-60, 3600)};
    unsigned seen[2] = {0, 0};
    pthread_t readers[2];

    current_certificate_set(&current, tls_context_ref(contexts[0]));
    for (int i = 0; i < 2; i++)
        cr_assert(pthread_create(&readers[i], NULL, read_it, &seen[i]) == 0);
    for (int i = 0; i < 20000; i++)
        current_certificate_set(&current, tls_context_ref(contexts[i % 2]));
    for (int i = 0; i < 2; i++) {
        pthread_join(readers[i], NULL);
        cr_expect(seen[i] == 20000);
        tls_context_unref(contexts[i]);
    }
}
