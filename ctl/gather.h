/* SPDX-License-Identifier: Apache-2.0 */
/* One question to this machine, or to all nodes, and its answers. */
#ifndef CTL_GATHER_H
#define CTL_GATHER_H

#include "ctl/commands.h"
#include "ctl/fleet.h"

struct node_answers {
    bool fleet; /* of several nodes: tables have a column for them */
    const struct ctl_options *options;
    struct fleet_answer *answers; /* json of what could not be had is NULL */
    size_t len;
};

/* An exit code; CTL_OK: ret is to be closed by gathered_end() or gathered_print(). Of this machine what
 * failed was said. */
int gather(const struct ctl_options *options, fleet_ask_fn ask, const void *data, struct node_answers *ret);
/* Says that there is no node to ask, as gather() does itself. Returns the exit code CTL_UNREACHABLE. */
int gathered_nobody(const struct ctl_options *options);
/* Name of the node of an answer, the fleet's; "" of this machine, never NULL. */
const char *gathered_node(const struct node_answers *gathered, size_t i);
/* As JSON: of this machine the answer itself, else a list of {"node", key: the answer} or {"node", "error"}.
 * Frees all; an exit code. */
int gathered_print(struct node_answers *gathered, const char *key);
/* Says on stderr who has not answered, and frees all. code, or CTL_UNREACHABLE if nobody has. */
int gathered_end(struct node_answers *gathered, int code);

/* A question for gather(): data is the name of the agent's op. An exit code. */
int ask_agent_op(const struct place *place, const void *data, cJSON **ret);
/* The same: data is a key of the proxy's dump, or NULL: all of it. An exit code. */
int ask_dump(const struct place *place, const void *data, cJSON **ret);

#endif
