/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates of the pods on this node (contract section 7), from the source that is their trust domain's
 * (identity_source.h). The control thread fetches and renews them; workers read the current one.
 */
#ifndef PROXY_IDENTITY_IDENTITY_H
#define PROXY_IDENTITY_IDENTITY_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "lib/loop.h"
#include "proxy/identity/source_choice.h"
#include "proxy/tls/tls_context.h"

struct identity_store;
struct identity; /* one SPIFFE id; lives until its last identity_put() */

struct identity_config {
    struct source_choice sources;
    const char *files;           /* of source files: the directories, file_source.h; or NULL */
    const char *spire_socket;    /* of source spire: the agent's, or NULL; for_itself: of the Workload API */
    const char *spire_selectors; /* of source spire, spire_selectors.h */
    const char *bundles;         /* directory of federated bundles; or NULL or "": none */
    const char *ca_address;      /* "https://host:port"; of source ca, as the rest */
    const char *ca_roots;        /* a path, literal PEM, or "SYSTEM" */
    const char *alternate_host;  /* or NULL */
    const char *auth_token; /* path (read again for each request) or literal; "": none; NULL: not given */
    const char *token_file; /* not given: this one is read if it is there; or NULL */
    const char *cluster_id;
    unsigned long ttl_seconds; /* asked for */
    bool for_itself;           /* the token's own identity is asked for, nobody else's */
    uint64_t patience; /* milliseconds: how long a connection waits; a CA that fails for longer is not waited
                          for */
    /* Calls each for the UID of every pod on this node that is of the identity's namespace and account,
     * whether or not it has the identity yet. Control thread; of source spire. */
    void (*pods)(void *data, const char *uri, void (*each)(void *each_data, const char *uid),
                 void *each_data);
    /* Called when a certificate arrived, or the state of an identity changed. Control thread. */
    void (*changed)(void *data, struct identity *identity);
    void *data;
};

/* Texts of config must outlive the store. 0, -EINVAL for an address that is none, -ENOMEM, or -errno of
 * inotify. */
int identity_store_new(struct loop *loop, const struct identity_config *config, struct identity_store **ret);
void identity_store_free(struct identity_store **store);

/* Whose request to the CA goes first. */
enum identity_priority { IDENTITY_REALTIME, IDENTITY_WARMUP, IDENTITY_BACKGROUND };

/* Control thread. Asks for the certificate if there is none; the same id again shares the state and may raise
 * the priority. *ret is a reference for the caller, by identity_put(). 0 or -ENOMEM. */
int identity_get(struct identity_store *store, const char *uri, enum identity_priority priority,
                 struct identity **ret);
void identity_put(struct identity *identity); /* control thread; NULL is fine */
void identity_put_later(void *identity);      /* any thread: the control thread puts it; not NULL */

/* Control thread: the wall clock has been set. */
void identity_clock_set(struct identity_store *store);

/* Any thread. The current context with a reference for the caller, or NULL while there is none that is good
 * by the wall clock. */
struct tls_context *identity_context(struct identity *identity);
/* Any thread. There is none, and waiting will not bring one soon: the CA has refused it again, or has not
 * answered for longer than a connection waits. text: why, in any case; "" without a failure. */
bool identity_has_failed(struct identity *identity, char *text, size_t size);
/* Its SPIFFE id, never NULL; valid as long as the identity. Any thread. */
const char *identity_uri(const struct identity *identity);

/* For the config dump. Control thread: calls fn for each until it fails, and returns that. */
int identity_each(struct identity_store *store, int (*fn)(void *data, const char *uri), void *data);
/* One of "certificates" (contract 9.3), the caller's; or NULL: there is no such identity, or no memory. */
cJSON *identity_dump(struct identity_store *store, const char *uri);

#endif
