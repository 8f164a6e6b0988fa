/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proxy/tls/crl.h"
#include "proxy/tls/tls_library.h"
#include "tests/unit/certificates.h"

TestSuite(crl, .init = tls_library_init, .timeout = 60);

static char path[sizeof("/tmp/bruma-crl-XXXXXX")];

static void write_file(const void *data, size_t len)
{
    FILE *f = fopen(path, "w");

    cr_assert(f != NULL);
    cr_assert(fwrite(data, 1, len, f) == len);
    fclose(f);
}

static void make_path(void)
{
    int fd;

    strcpy(path, "/tmp/bruma-crl-XXXXXX");
    fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
}

static void write_list(X509_CRL *list)
{
    test_crl_save(path, list);
}

static bool revoked(struct crl_set *set, X509 *leaf, X509 *root)
{
    STACK_OF(X509) *chain = sk_X509_new_null();
    bool r;

    sk_X509_push(chain, leaf);
    sk_X509_push(chain, root);
    r = crl_revokes(set, chain);
    sk_X509_free(chain);
    return r;
}

struct fixture {
    struct test_ca ca;
    EVP_PKEY *key;
    X509 *good, *bad;
};

static struct fixture fixture(void)
{
    struct fixture f = {.ca = test_ca(), .key = EVP_EC_gen("prime256v1")};

    make_path();
    f.good = test_certificate(f.key, f.ca.cert, f.ca.key, NULL, -60, 3600);
    f.bad = test_certificate(f.key, f.ca.cert, f.ca.key, NULL, -60, 3600);
    return f;
}

static void end(struct fixture *f)
{
    unlink(path);
    X509_free(f->good);
    X509_free(f->bad);
    EVP_PKEY_free(f->key);
    test_ca_free(&f->ca);
}

static struct crl_set *loaded(void)
{
    struct crl_set *set = NULL;
    char error[160] = "";

    cr_assert(crl_load(path, &set, error, sizeof(error)) == 0, "%s", error);
    return set;
}

static void refused(const char *why)
{
    struct crl_set *set = NULL;
    char error[160] = "";

    cr_assert(crl_load(path, &set, error, sizeof(error)) < 0);
    cr_assert(set == NULL);
    cr_assert_str_eq(error, why);
}

Test(crl, a_revoked_certificate_is_found_and_others_are_not)
{
    struct fixture f = fixture();
    struct crl_set *set;

    write_list(test_crl(&f.ca, f.ca.key, f.bad, true));
    set = loaded();
    cr_assert(crl_count(set) == 1);
    cr_assert(revoked(set, f.bad, f.ca.cert));
    cr_assert(!revoked(set, f.good, f.ca.cert));
    crl_unref(set);
    end(&f);
}

Test(crl, der_and_several_pem_blocks_are_read)
{
    struct fixture f = fixture();
    X509_CRL *one = test_crl(&f.ca, f.ca.key, f.bad, true), *other = test_crl(&f.ca, f.ca.key, f.good, true);
    char *a = test_crl_pem(one), *b = test_crl_pem(other), both[8192];
    unsigned char *der = NULL;
    int len = i2d_X509_CRL(one, &der);
    struct crl_set *set;

    snprintf(both, sizeof(both), "# two lists\n%s\n%s", a, b);
    write_file(both, strlen(both));
    set = loaded();
    cr_assert(crl_count(set) == 2);
    cr_assert(revoked(set, f.bad, f.ca.cert) && revoked(set, f.good, f.ca.cert));
    crl_unref(set);
    write_file(der, (size_t)len);
    set = loaded();
    cr_assert(crl_count(set) == 1);
    cr_assert(revoked(set, f.bad, f.ca.cert) && !revoked(set, f.good, f.ca.cert));
    crl_unref(set);
    free(a);
    free(b);
    OPENSSL_free(der);
    X509_CRL_free(one);
    X509_CRL_free(other);
    end(&f);
}

Test(crl, a_list_that_the_issuer_has_not_signed_does_not_count)
{
    struct fixture f = fixture();
    EVP_PKEY *other = EVP_EC_gen("prime256v1");
    struct crl_set *set;

    write_list(test_crl(&f.ca, other, f.bad, true));
    set = loaded();
    cr_assert(!revoked(set, f.bad, f.ca.cert));
    crl_unref(set);
    EVP_PKEY_free(other);
    end(&f);
}

Test(crl, an_empty_file_revokes_nothing_and_none_is_an_error)
{
    struct fixture f = fixture();
    struct crl_set *set = loaded();

    cr_assert(crl_count(set) == 0 && !revoked(set, f.bad, f.ca.cert));
    crl_unref(set);
    unlink(path);
    refused("No such file or directory");
    end(&f);
}

Test(crl, what_is_no_list_is_refused_with_the_reason)
{
    struct fixture f = fixture();
    X509_CRL *list = test_crl(&f.ca, f.ca.key, f.bad, true);
    char *pem = test_crl_pem(list);

    write_file("not a list", 10);
    refused("neither PEM nor DER of a revocation list");
    write_file(pem, strlen(pem) / 2);
    refused("a damaged PEM block");
    write_list(test_crl(&f.ca, f.ca.key, f.bad, false));
    refused("a list without CRLNumber");
    unlink(path);
    cr_assert(mkdir(path, 0700) == 0);
    refused("Invalid argument");
    rmdir(path);
    free(pem);
    X509_CRL_free(list);
    end(&f);
}

static int changes;
static size_t lists;
static bool missing;

static void on_changed(void *data, struct crl_set *set)
{
    changes++;
    lists = crl_count(set);
    missing = crl_missing(set);
    loop_stop(data);
}

static bool says(const struct crl_watch *watch, const char *line)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    bool found;

    crl_watch_write_metrics(watch, f);
    fclose(f);
    found = strstr(text, line) != NULL;
    free(text);
    return found;
}

/* What a file must go through before it counts, and what it may become afterwards. */
static void follow(bool required, bool there)
{
    struct fixture f = fixture();
    struct crl_watch *watch;
    struct loop *loop;

    changes = 0;
    cr_assert(loop_new(&loop) == 0);
    if (there)
        write_file("rubbish", 7);
    else
        unlink(path);
    cr_assert(crl_watch_new(loop, path, required, on_changed, loop, &watch) == 0);
    cr_assert(changes == 1 && lists == 0 && missing == required, "as configured");
    cr_assert(!crl_watch_usable(watch) && says(watch, "\nbruma_crl_unusable 1\n"));
    loop_run(loop); /* it was told to stop before it began */
    write_list(test_crl(&f.ca, f.ca.key, f.bad, true));
    loop_run(loop);
    cr_assert(changes == 2 && lists == 1 && !missing);
    cr_assert(crl_watch_usable(watch) && says(watch, "\nbruma_crl_unusable 0\n"));
    crl_watch_free(&watch);
    loop_free(&loop);
    end(&f);
}

Test(crl, without_usable_lists_at_the_start_it_is_as_configured)
{
    follow(true, true);
    follow(true, false);
    follow(false, true);
    follow(false, false);
}
