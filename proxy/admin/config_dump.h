/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The config dump of the admin page (contract section 9.3). It may be a hundred megabytes long, so it is
 * never there as a whole: a dump holds references on what is told, and each who reads it gets it in pieces.
 */
#ifndef PROXY_ADMIN_CONFIG_DUMP_H
#define PROXY_ADMIN_CONFIG_DUMP_H

#include <stddef.h>

#include "lib/rpc/http_server.h"
#include "lib/settings.h"

struct state;
struct identity_store;
struct pod_notes;
struct config_dump;

/*
 * table and settings: the program's settings and its filled struct, see settings.h; settings that are
 * credentials are left out. state, identities and notes may be NULL. All of it outlives the dump.
 */
struct config_dump_source {
    struct state *state;
    struct identity_store *identities;
    const struct setting *table;
    size_t count;
    const void *settings;
};

/* Takes the notes, also on failure. 0 or -ENOMEM. All on the control thread but where said. */
int config_dump_new(const struct config_dump_source *source, struct pod_notes *notes,
                    struct config_dump **ret);
/* Any thread, before the first reader. */
void config_dump_sort(struct config_dump *dump);
/* One more reference; returns dump, never NULL. */
struct config_dump *config_dump_ref(struct config_dump *dump);
void config_dump_unref(struct config_dump **dump);
/* For one who reads it, with a reference of its own, which the source's done gives back. 0 or -ENOMEM. */
int config_dump_open(struct config_dump *dump, struct http_source *ret);
/* How many there are that somebody reads or will. */
unsigned config_dumps(void);
/* The one that was made last of them, or NULL; without a reference for the caller. */
struct config_dump *config_dump_newest(void);

#endif
