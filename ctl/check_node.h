/* SPDX-License-Identifier: Apache-2.0 */
/* What `brumactl check` asks of a node, and what it finds there. */
#ifndef CTL_CHECK_NODE_H
#define CTL_CHECK_NODE_H

#include <cjson/cJSON.h>

#include "ctl/place.h"

/* A question for gather(): {"status","doctor","pods","dump","connected","offset","uncertainty"} in *ret; what
 * could not be had is missing, and "agentError" or "proxyError" says why. offset: seconds by which the node's
 * clock is ahead of ours, as far as uncertainty goes. An exit code; CTL_UNREACHABLE: neither of the two has
 * answered. */
int check_ask(const struct place *place, const void *data, cJSON **ret);
/* Appends findings (ctl/say.h) about one node from that. */
void check_node(cJSON *lines, const cJSON *answer);

#endif
