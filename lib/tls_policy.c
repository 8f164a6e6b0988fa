/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/tls_policy.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/tls_fips.h"

#define GROUPS_MAX 2

static const char suites[] = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
static const char suites12[] = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:"
                               "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256";
/* of a certificate's key, and with it of what signs the handshake */
static const char approved[] = "ECDSA+SHA256:ECDSA+SHA384:RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:"
                               "RSA+SHA256:RSA+SHA384:RSA+SHA512";

#define HYBRID "X25519MLKEM768"

static const struct policy {
    const char *name;
    const char *groups[GROUPS_MAX]; /* the first list that OpenSSL takes */
    bool fips;
    bool master_secret_bound; /* TLS 1.2 with its extended master secret (RFC 7627) alone */
    bool only13;
    const char *takes; /* another policy that is within this one */
} policies[] = {
    /* Two key shares are sent: a peer that knows the second group alone needs no second hello. */
    {.name = "", .groups = {"*" HYBRID "/*X25519:P-256:P-384", "X25519:P-256:P-384"}},
    {.name = "fips-140-2", .groups = {"P-256:P-384"}, .fips = true, .takes = "fips-140-3"},
    {.name = "fips-140-3", .groups = {"P-256:P-384"}, .fips = true, .master_secret_bound = true},
    {.name = "pqc", .groups = {HYBRID}, .only13 = true},
};

static const struct policy *policy = &policies[0];
static char policy_text[160];
static bool has_tls12;

static const struct policy *find(const char *text)
{
    for (size_t i = 0; i < array_size(policies); i++) {
        if (!strcmp(policies[i].name, text))
            return &policies[i];
    }
    return NULL;
}

int tls_policy_check(const char *text, bool tls12, char *error, size_t error_size)
{
    const struct policy *p = find(text);

    if (!p) {
        snprintf(error, error_size, "COMPLIANCE_POLICY: \"%.100s\" is none of fips-140-2, fips-140-3 and pqc",
                 text);
        return -EINVAL;
    }
    if (p->only13 && tls12) {
        snprintf(error, error_size,
                 "TLS12_ENABLED and COMPLIANCE_POLICY=%s exclude each other: TLS 1.2 has no %s", p->name,
                 HYBRID);
        return -EINVAL;
    }
    return 0;
}

static int set_groups(SSL_CTX *context)
{
    for (int i = 0; i < GROUPS_MAX && policy->groups[i]; i++) {
        if (SSL_CTX_set1_groups_list(context, policy->groups[i]))
            return 0;
        if (i + 1 < GROUPS_MAX && policy->groups[i + 1])
            ERR_clear_error();
    }
    return -EINVAL;
}

int tls_policy_apply(SSL_CTX *context)
{
    if (!SSL_CTX_set_min_proto_version(context, has_tls12 ? TLS1_2_VERSION : TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, suites) ||
        (has_tls12 && !SSL_CTX_set_cipher_list(context, suites12)) || set_groups(context) < 0)
        return -EINVAL;
    /* Nothing is resumed but what the proxies keep themselves, and a handshake is one. */
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (!policy->fips)
        return 0;
    /* of certificates too: 112 bits, no SHA-1 */
    SSL_CTX_set_security_level(context, 2);
    return SSL_CTX_set1_sigalgs_list(context, approved) ? 0 : -EINVAL;
}

/* Whether a context can be made as the policy wants it, of both roles. */
static int probe(void)
{
    const SSL_METHOD *methods[] = {TLS_client_method(), TLS_server_method()};
    int r = 0;

    for (size_t i = 0; r == 0 && i < array_size(methods); i++) {
        SSL_CTX *context = SSL_CTX_new(methods[i]);

        r = context ? tls_policy_apply(context) : -EINVAL;
        SSL_CTX_free(context);
    }
    return r;
}

int tls_policy_choose(const char *text, bool tls12, const char *fips_config, char *error, size_t error_size)
{
    int r = tls_policy_check(text, tls12, error, error_size);
    char why[400];

    if (r < 0)
        return r;
    if (find(text)->fips && tls_fips_load(fips_config, why, sizeof(why)) < 0) {
        snprintf(error, error_size, "COMPLIANCE_POLICY: \"%s\" cannot be served: %s", text, why);
        return -EINVAL;
    }
    policy = find(text);
    has_tls12 = tls12;
    r = probe();
    if (r < 0) {
        snprintf(error, error_size, "COMPLIANCE_POLICY: \"%s\" needs %s, which %.60s does not have",
                 policy->name, policy->groups[0], OpenSSL_version(OPENSSL_VERSION));
        ERR_clear_error();
        policy = &policies[0];
    }
    snprintf(policy_text, sizeof(policy_text), policy->fips ? "%s (%s)" : "%s", policy->name,
             tls_policy_module());
    return r;
}

const char *tls_policy_name(void)
{
    return policy->name;
}

bool tls_policy_is_fips(void)
{
    return policy->fips;
}

const char *tls_policy_module(void)
{
    return policy->fips ? tls_fips_module() : "";
}

const char *tls_policy_text(void)
{
    return policy_text;
}

bool tls_policy_has_tls12(void)
{
    return has_tls12;
}

bool tls_policy_met(const SSL *ssl)
{
    return !policy->master_secret_bound || SSL_version(ssl) != TLS1_2_VERSION ||
           SSL_get_extms_support((SSL *)ssl) == 1;
}

bool tls_policy_within(const char *made_under, const char *wanted)
{
    const struct policy *made = find(made_under), *p = find(wanted);

    return made && p && (!*p->name || made == p || (p->takes && !strcmp(p->takes, made->name)));
}
