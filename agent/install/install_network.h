/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our entry in the networks of a directory: at the end of the one that the runtime loads, and in no other.
 * Runtimes take the first file by name of those that end in .conf, .conflist or .json.
 *
 * A file with a list of plugins is edited. One with a single plugin cannot have a second one, so a list is
 * made of it beside it (NAME.bruma.conflist), which sorts before it, follows its changes and goes when it
 * goes.
 *
 * Or all files stay as they are, and a list of our own name is made of the first one, which sorts before it:
 * then whoever writes his file anew while no agent runs, at a boot, takes nothing away.
 */
#ifndef AGENT_INSTALL_INSTALL_NETWORK_H
#define AGENT_INSTALL_INSTALL_NETWORK_H

#include <stdbool.h>

#include "bruma/reasons.h"

struct install_network {
    const char *directory;
    const char *entry; /* JSON; NULL: everything of ours goes */
    /* Called before each write, on the thread of install_network_apply(). 0, or -EBUSY: not now. NULL:
     * always. */
    int (*may_write)(void *data);
    void *data;
    const char *own_name; /* of the list of our own, "02-bruma.conflist"; NULL: an earlier agent's is not
                             known either */
    bool own;             /* it is wanted */
    bool keep_own;        /* although there is nothing any more that it could be made of */

    /* What was found */
    char file[512];           /* with the entry; "": none */
    bool orphaned;            /* there is a list of our own, and no other configuration */
    unsigned changes;         /* files written or removed */
    enum bruma_reason reason; /* why it did not work */
    char error[400];
    char unusable[300]; /* files that a runtime could not load, in words */
};

/* Only looks: file is the one that the runtime loads, or would load without what is ours, and unusable those
 * before it. 0, or -errno with reason and error. */
int install_network_look(struct install_network *network);

/* 0; -EAGAIN if somebody is writing there: look again soon; -EBUSY if may_write said so; or another error.
 * All but -EAGAIN come with a reason. */
int install_network_apply(struct install_network *network);

#endif
