/* SPDX-License-Identifier: Apache-2.0 */
/* What is known to be outside the mesh, in a file that bruma-cni reads while no agent answers:
 * BRUMA_DECISIONS in the run directory (its fields are in bruma/protocol.h). Who knows it is the source of
 * the agent. */
#ifndef AGENT_ENROLL_DECISIONS_H
#define AGENT_ENROLL_DECISIONS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/loop.h"

struct agent;

struct decisions {
    struct agent *agent;
    struct loop_timer timer;
    char *last; /* as last written, without time and revision; NULL: not yet */
    uint64_t revision;
    /* Both are called on the loop's thread before the file is written. True once the source is known: before
     * that the decisions of an earlier agent stay. */
    bool (*ready)(void *data);
    /* Called after ready, on the same thread: adds to the objects "namespaces" and "pods". */
    void (*fill)(void *data, cJSON *namespaces, cJSON *pods);
    void *data;
};

/* agent, ready, fill and data are set, the rest is zero. */
void decisions_open(struct decisions *decisions);
/* Something has changed that decisions come from; the file follows soon. Also before the open: nothing. */
void decisions_touch(struct decisions *decisions);
/* The file stays. Harmless where there was no open, if all is zero. */
void decisions_close(struct decisions *decisions);

/* Those of the mesh file. */
void file_decisions_open(struct agent *agent);

#endif
