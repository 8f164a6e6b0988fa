/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our entry in the networks of a directory: at the end of the one that the runtime loads, and in no other.
 * Runtimes take the first file by name of those that end in .conf, .conflist or .json.
 *
 * A file with a list of plugins is edited. One with a single plugin cannot have a second one, so a list is
 * made of it beside it (NAME.bruma.conflist), which sorts before it, follows its changes and goes when it
 * goes.
 */
#ifndef AGENT_INSTALL_NETWORK_H
#define AGENT_INSTALL_NETWORK_H

#include "bruma/reasons.h"

struct install_network {
    const char *directory;
    const char *entry;            /* JSON; NULL: everything of ours goes */
    int (*may_write)(void *data); /* asked before each write; -EBUSY: not now. NULL: always */
    void *data;

    /* What was found */
    char file[512];           /* with the entry; "": none */
    unsigned changes;         /* files written or removed */
    enum bruma_reason reason; /* why it did not work */
    char error[400];
    char unusable[300]; /* files that a runtime could not load, in words */
};

/* 0; -EAGAIN if somebody is writing there: look again soon; -EBUSY if may_write said so; or another error.
 * All but -EAGAIN come with a reason. */
int install_network_apply(struct install_network *network);

#endif
