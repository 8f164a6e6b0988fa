/* SPDX-License-Identifier: Apache-2.0 */
/* Roots of federated trust domains in a directory: TRUST-DOMAIN.pem for each, followed as they change.
 * Control thread. */
#ifndef PROXY_IDENTITY_BUNDLE_DIRECTORY_H
#define PROXY_IDENTITY_BUNDLE_DIRECTORY_H

#include <stdio.h>

#include "lib/directory_watch.h"
#include "proxy/tls/bundles.h"

struct bundle_directory {
    const char *path; /* "": none */
    struct directory_watcher watcher;
    struct directory_watch watch;
    struct bundles *bundles; /* never NULL once followed */
    unsigned bad;            /* files that cannot be used just now */
    struct loop_timer retry; /* while there are some */
    unsigned retry_milliseconds;
    void (*changed)(void *data); /* called when other roots are trusted than before */
    void *data;
};

/* Reads the directory, and again what could not be read; one that is not there is empty. changed is called on
 * the control thread when other roots are trusted than before. path must live as long. 0 or -errno. */
int bundle_directory_follow(struct bundle_directory *directory, struct loop *loop, const char *path,
                            void (*changed)(void *data), void *data);
/* Harmless where it was never followed, if it is all zero. */
void bundle_directory_clear(struct bundle_directory *directory);

/* How many there are, and how many files are bad. */
void bundle_directory_write_metrics(const struct bundle_directory *directory, FILE *out);

#endif
