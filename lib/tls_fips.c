/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/tls_fips.h"

#include <errno.h>
#include <openssl/conf.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static char module[120];

const char *tls_fips_module(void)
{
    return module;
}

static int fail(const char *what, char *error, size_t error_size)
{
    unsigned long e = ERR_peek_error();
    const char *why = e ? ERR_reason_error_string(e) : NULL;

    snprintf(error, error_size, "%s (%.60s%s%.80s)", what, OpenSSL_version(OPENSSL_VERSION), why ? ": " : "",
             why ? why : "");
    ERR_clear_error();
    return -EINVAL;
}

static void note_module(OSSL_PROVIDER *fips)
{
    char *name = NULL, *version = NULL;
    OSSL_PARAM wanted[] = {
        OSSL_PARAM_construct_utf8_ptr(OSSL_PROV_PARAM_NAME, &name, 0),
        OSSL_PARAM_construct_utf8_ptr(OSSL_PROV_PARAM_VERSION, &version, 0),
        OSSL_PARAM_construct_end(),
    };

    if (!OSSL_PROVIDER_get_params(fips, wanted))
        ERR_clear_error();
    snprintf(module, sizeof(module), "%s %s", name ? name : "FIPS provider", version ? version : "");
}

/* MD5 is in every default provider, and in no approved one. By the default property it would not be found
 * where such a one is loaded as well, which whoever asks without that property gets. */
static bool is_the_only_one(const OSSL_PROVIDER *fips)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    EVP_MD *other = EVP_MD_fetch(NULL, "MD5", "-fips");
    bool only = cipher && EVP_CIPHER_get0_provider(cipher) == fips && !other;

    ERR_clear_error();
    EVP_CIPHER_free(cipher);
    EVP_MD_free(other);
    return only;
}

/* What openssl fipsinstall makes is the provider's section alone. */
static bool read_config(const char *path)
{
    CONF *conf = NCONF_new(NULL);
    char text[1100];
    BIO *bio = NULL;
    long line;
    bool ok;
    int len = snprintf(text, sizeof(text),
                       "openssl_conf = all\n.include %s\n"
                       "[all]\nproviders = providers\n[providers]\nfips = fips_sect\n",
                       path);

    if (len < (int)sizeof(text))
        bio = BIO_new_mem_buf(text, len);
    OPENSSL_load_builtin_modules();
    ok = conf && bio && access(path, R_OK) == 0 && NCONF_load_bio(conf, bio, &line) > 0 &&
         NCONF_get_section(conf, "fips_sect") && CONF_modules_load(conf, NULL, 0) > 0;
    BIO_free(bio);
    NCONF_free(conf);
    return ok;
}

int tls_fips_load(const char *config, char *error, size_t error_size)
{
    OSSL_PROVIDER *fips;

    ERR_clear_error();
    if (*config && !read_config(config)) {
        char what[300];

        snprintf(what, sizeof(what), "fips-config: %.200s cannot be used", config);
        return fail(what, error, error_size);
    }
    /* Never unloaded. What reads keys and certificates, and computes nothing, is in "base". */
    fips = OSSL_PROVIDER_load(NULL, "fips");
    if (!fips || !OSSL_PROVIDER_load(NULL, "base"))
        return fail("OpenSSL's FIPS provider cannot be used: it is not installed (of Debian 13 it is the "
                    "package openssl-provider-fips), nothing says what its digest is (openssl fipsinstall, "
                    "BRUMA_FIPS_CONFIG), or it has another one",
                    error, error_size);
    if (!OSSL_PROVIDER_self_test(fips))
        return fail("the FIPS provider's test of itself has failed", error, error_size);
    if (!EVP_default_properties_enable_fips(NULL, 1) || !is_the_only_one(fips))
        return fail(
            "the FIPS provider cannot be made the only one that is used: OpenSSL's configuration must not "
            "activate another",
            error, error_size);
    if (RAND_status() != 1)
        return fail("the FIPS provider has no random numbers", error, error_size);
    note_module(fips);
    return 0;
}
