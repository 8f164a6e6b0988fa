/* SPDX-License-Identifier: Apache-2.0 */
/* What brumactl is told: items or an error, which go to its connection to the socket, or are gathered for a
 * page. */
#ifndef AGENT_API_CTL_ANSWER_H
#define AGENT_API_CTL_ANSWER_H

#include <cjson/cJSON.h>

#include "agent/local/server.h"
#include "bruma/reasons.h"

struct ctl_answer {
    struct local_connection *connection; /* NULL: into items */
    cJSON *items;                        /* an array, or the object of an error; whose it is says its owner */
};

/* Takes the item. */
void ctl_answer_item(struct ctl_answer *answer, cJSON *item);
/* In place of all items: reason and words. */
void ctl_answer_error(struct ctl_answer *answer, enum bruma_reason reason, const char *text);

#endif
