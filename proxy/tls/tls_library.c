/* SPDX-License-Identifier: Apache-2.0 */
/* The only use of what OpenSSL 3 calls deprecated. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "proxy/tls/tls_library.h"

#include <openssl/opensslconf.h>

#ifdef OPENSSL_NO_ENGINE

void tls_library_init(void)
{
}

#else

#include <openssl/engine.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <pthread.h>

#include "lib/tls_policy.h"

/*
 * OpenSSL 3 reads the public key of each certificate through a chain of decoders that it looks up and builds
 * anew each time: a third of a whole handshake. Where an engine is responsible for a type of key, OpenSSL
 * reads such keys, and signs and verifies with them, directly. Ours has OpenSSL's own methods for elliptic
 * curves: the arithmetic is the same.
 */
static EVP_PKEY_METHOD *ec_method;

static int key_methods(ENGINE *engine, EVP_PKEY_METHOD **method, const int **types, int type)
{
    static const int all[] = {EVP_PKEY_EC};

    (void)engine;
    if (!method) {
        *types = all;
        return 1;
    }
    *method = type == EVP_PKEY_EC ? ec_method : NULL;
    return *method != NULL;
}

static void install(void)
{
    const EVP_PKEY_METHOD *own = EVP_PKEY_meth_find(EVP_PKEY_EC);
    ENGINE *engine = ENGINE_new();

    ec_method = EVP_PKEY_meth_new(EVP_PKEY_EC, 0);
    if (own && ec_method && engine) {
        EVP_PKEY_meth_copy(ec_method, own);
        if (ENGINE_set_id(engine, "bruma") && ENGINE_set_name(engine, "elliptic curves without decoders") &&
            ENGINE_set_pkey_meths(engine, key_methods) && ENGINE_add(engine))
            ENGINE_set_default_pkey_meths(engine);
        ENGINE_free(engine); /* the list has its own reference */
    }
    ERR_clear_error();
}

void tls_library_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    /* Signatures are the provider's then. */
    if (tls_policy_is_fips())
        return;
    pthread_once(&once, install);
}

#endif
