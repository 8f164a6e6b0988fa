/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where certificates come from: the mesh's CA, files, SPIRE. A source is asked for one identity at a time,
 * and answers with identity_issued() or identity_failed(), at once or later; one that pushes answers again
 * whenever there is something new. Control thread.
 */
#ifndef PROXY_IDENTITY_IDENTITY_SOURCE_H
#define PROXY_IDENTITY_IDENTITY_SOURCE_H

#include <openssl/evp.h>
#include <stdio.h>

#include "bruma/reasons.h"
#include "lib/list.h"
#include "proxy/identity/certificate.h"
#include "proxy/identity/identity.h"
#include "proxy/tls/bundles.h"

struct identity_source;

struct identity_source_type {
    const char *name;    /* as in the setting, dumps and metrics */
    unsigned concurrent; /* requests under way at a time; 0: any number */
    bool pushes; /* it brings new ones by itself, and is asked again only after a failure or at the end */
    bool own_domain_only; /* its roots are good for the own trust domain alone */
    /* where request() itself fails; where what it gives out is not usable */
    enum bruma_reason unreachable, refused;
    /* Called when the identity's turn has come. 0: the answer comes, or has come; or -errno. What it keeps of
     * the identity is in identity->asked. An identity that it keeps something of may be asked for again. */
    int (*request)(struct identity_source *source, struct identity *identity);
    /* Called when nobody wants the identity any more: frees identity->asked, and does not answer. */
    void (*forget)(struct identity_source *source, struct identity *identity);
    /* Called for each page of metrics, to append what is its own; NULL: nothing is. */
    void (*write_metrics)(const struct identity_source *source, FILE *out);
    /* Called at the end, when all identities are forgotten. */
    void (*free)(struct identity_source *source);
};

/* The first member of each source. */
struct identity_source {
    const struct identity_source_type *type;
    struct identity_store *store;
    struct list queues[3]; /* identities that wait for their turn, by priority */
    unsigned requests;     /* under way */
    bool starting;         /* one is being made, which may be answered at once */
    uint64_t failures;     /* since the start */
};

/* What a source gives out. Zeroed is none; issued_clear(). */
struct issued {
    struct certificate certificate;
    EVP_PKEY *key;
    struct bundles *federated; /* of trust domains that this identity is federated with; NULL: none */
};

/* Frees what it has, and empties it. */
void issued_clear(struct issued *issued);

/* Takes issued, which has been checked, and empties it. */
void identity_issued(struct identity *identity, struct issued *issued);
/* There is none, or no new one; what there is stays, until its end. */
void identity_failed(struct identity *identity, enum bruma_reason reason, const char *text);
/* The same, and what there is must not be used any more. */
void identity_withdrawn(struct identity *identity, enum bruma_reason reason, const char *text);
/* Those of the source that have a certificate are asked for again, each at some time within spread
 * milliseconds. */
void identity_source_renew(struct identity_source *source, uint64_t spread);

/* Each makes a source; config must live as long. 0 or -errno. */
int ca_source_new(struct loop *loop, const struct identity_config *config, struct identity_source **ret);
int file_source_new(struct loop *loop, const struct identity_config *config, struct identity_source **ret);
int spire_source_new(struct loop *loop, const struct identity_config *config, struct identity_source **ret);

#endif
