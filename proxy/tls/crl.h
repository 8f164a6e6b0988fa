/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificate revocation lists from a file (contract section 7, CRL): PEM with any number of lists, or one in
 * DER. A list that is out of date still counts; a certificate that no list speaks of is good. Whoever
 * configures lists wants them looked at: where there are none yet, it is a setting whether peers wait.
 */
#ifndef PROXY_TLS_CRL_H
#define PROXY_TLS_CRL_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/loop.h"

struct crl_set; /* read-only, counted */

/* A set with one reference, for the caller; an empty file is an empty set. 0, -ENOENT and others of the
 * file; -EBADMSG for what is no list, or one without a CRLNumber; -ENOMEM; error: why. */
int crl_load(const char *path, struct crl_set **ret, char *error, size_t error_size);
/* One more reference; returns set, which may be NULL. Any thread, as unref. */
struct crl_set *crl_ref(struct crl_set *set);
/* Gives one back; NULL is fine. */
void crl_unref(struct crl_set *set);
/* How many lists it has. */
size_t crl_count(const struct crl_set *set);
/* No two sets of this process have the same; never 0. */
uint64_t crl_generation(const struct crl_set *set);

/* There were none to be read, and they are required: no certificate can be said to be good. */
bool crl_missing(const struct crl_set *set);
/* Whether a certificate of this verified chain (leaf first, root last) revoked by a list that its issuer
 * signed? */
bool crl_revokes(const struct crl_set *set, STACK_OF(X509) * chain);

struct crl_watch;

/* Reads the file now and whenever it has changed; looks each two seconds, which survives every way to
 * replace a file. changed() is called on the loop's thread, the first time from inside this function, with
 * each set that could be read, at first with one in any case: where the file is bad or not there, with one
 * that is missing if it is required, else with an empty one. If it is bad or gone later, the last set
 * stays. changed() takes a reference if it keeps the set. 0 or -ENOMEM. */
int crl_watch_new(struct loop *loop, const char *path, bool required,
                  void (*changed)(void *data, struct crl_set *set), void *data, struct crl_watch **ret);
/* Whether the file could be read once. */
bool crl_watch_usable(const struct crl_watch *watch);
/* bruma_crl_lists, bruma_crl_unusable and istio_crl_untracked_connections, in OpenMetrics text. */
void crl_watch_write_metrics(const struct crl_watch *watch, FILE *out);
void crl_watch_free(struct crl_watch **watch);

#endif
