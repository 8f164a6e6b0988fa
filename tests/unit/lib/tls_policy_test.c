/* SPDX-License-Identifier: Apache-2.0 */
/* Which policies there are, and what becomes of them with the OpenSSL at hand. */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/tls_policy.h"

TestSuite(tls_policy, .timeout = 60);

static char error[600];

Test(tls_policy, has_these_names)
{
    static const char *const good[] = {"", "fips-140-2", "fips-140-3", "pqc"};
    static const char *const bad[] = {"fips", "FIPS-140-2", "fips-140-1", "fips-140-2 ",
                                      "PQC",  "none",       "true"};

    for (size_t i = 0; i < array_size(good); i++)
        cr_expect(tls_policy_check(good[i], false, error, sizeof(error)) == 0, "%s", good[i]);
    for (size_t i = 0; i < array_size(bad); i++) {
        cr_expect(tls_policy_check(bad[i], false, error, sizeof(error)) == -EINVAL, "%s", bad[i]);
        cr_expect(strstr(error, bad[i]) && strstr(error, "COMPLIANCE_POLICY"), "%s", error);
        cr_expect(tls_policy_choose(bad[i], false, "", error, sizeof(error)) == -EINVAL, "%s", bad[i]);
    }
    cr_expect_str_empty(tls_policy_name());
}

Test(tls_policy, of_groups_that_12_does_not_have_goes_without_it)
{
    cr_expect(tls_policy_check("fips-140-2", true, error, sizeof(error)) == 0);
    cr_expect(tls_policy_check("pqc", true, error, sizeof(error)) == -EINVAL &&
              strstr(error, "TLS12_ENABLED"));
}

static SSL_CTX *limited(void)
{
    SSL_CTX *c = SSL_CTX_new(TLS_client_method());

    cr_assert(c && tls_policy_apply(c) == 0);
    return c;
}

Test(tls_policy, none_is_as_a_mesh_has_it)
{
    SSL_CTX *c;

    cr_assert(tls_policy_choose("", false, "", error, sizeof(error)) == 0, "%s", error);
    cr_expect(!tls_policy_is_fips() && !tls_policy_has_tls12());
    cr_expect_str_empty(tls_policy_module());
    c = limited();
    cr_expect(SSL_CTX_get_min_proto_version(c) == TLS1_3_VERSION);
    cr_expect(SSL_CTX_get_options(c) & SSL_OP_NO_RENEGOTIATION);
    cr_expect_eq(SSL_CTX_get_session_cache_mode(c), SSL_SESS_CACHE_OFF);
    SSL_CTX_free(c);
    cr_assert(tls_policy_choose("", true, "", error, sizeof(error)) == 0, "%s", error);
    cr_expect(tls_policy_has_tls12());
    c = limited();
    cr_expect(SSL_CTX_get_min_proto_version(c) == TLS1_2_VERSION);
    SSL_CTX_free(c);
}

/* With the hybrid group or with a sentence that names it. */
Test(tls_policy, pqc)
{
    SSL_CTX *plain = SSL_CTX_new(TLS_client_method());
    bool has = SSL_CTX_set1_groups_list(plain, "X25519MLKEM768") == 1;
    int r = tls_policy_choose("pqc", false, "", error, sizeof(error));

    SSL_CTX_free(plain);
    if (!has) {
        cr_expect(r == -EINVAL && strstr(error, "X25519MLKEM768") && strstr(error, "OpenSSL"), "%s", error);
        cr_expect_str_empty(tls_policy_name());
        return;
    }
    cr_assert(r == 0, "%s", error);
    cr_expect_str_eq(tls_policy_name(), "pqc");
}

static void is_refused(const char *config, const char *says)
{
    cr_expect(tls_policy_choose("fips-140-3", false, config, error, sizeof(error)) == -EINVAL);
    cr_expect(strstr(error, says) && strstr(error, "COMPLIANCE_POLICY"), "%s", error);
    cr_expect_str_empty(tls_policy_name());
    cr_expect(ERR_peek_error() == 0, "nothing is left behind");
}

static void is_refused_with(const char *text, const char *says)
{
    char path[] = "/tmp/tls-policy-XXXXXX";
    int fd = mkstemp(path);

    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    is_refused(path, says);
    unlink(path);
}

/* Whatever OpenSSL has. */
Test(tls_policy, fips_needs_a_file_that_is_good)
{
    is_refused("/nowhere/fipsmodule.cnf", "/nowhere/fipsmodule.cnf");
    is_refused_with("[fips_sect\nactivate = 1\n", "cannot be used");
    is_refused_with("", "cannot be used");
    is_refused_with("[other]\nactivate = 1\n", "cannot be used");
    is_refused_with("[fips_sect]\nactivate = 1\nmodule-mac = 00:11:22\n", "FIPS provider");
}

Test(tls_policy, takes_what_is_within_it)
{
    static const struct {
        const char *made_under, *wanted;
        bool within;
    } cases[] = {
        {"", "", true},
        {"fips-140-2", "", true},
        {"pqc", "", true},
        {"", "fips-140-2", false},
        {"", "fips-140-3", false},
        {"", "pqc", false},
        {"pqc", "pqc", true},
        {"fips-140-2", "fips-140-2", true},
        {"fips-140-3", "fips-140-3", true},
        {"fips-140-3", "fips-140-2", true},
        {"fips-140-2", "fips-140-3", false},
        {"pqc", "fips-140-3", false},
        {"fips-140-3", "pqc", false},
        {"of a later release", "", false},
    };

    for (size_t i = 0; i < array_size(cases); i++)
        cr_expect_eq(tls_policy_within(cases[i].made_under, cases[i].wanted), cases[i].within, "%s to %s",
                     cases[i].made_under, cases[i].wanted);
}
