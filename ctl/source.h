/* SPDX-License-Identifier: Apache-2.0 */
/* Where brumactl gets what it shows: from the agent, and from the proxy's admin pages. Any thread. */
#ifndef CTL_SOURCE_H
#define CTL_SOURCE_H

#include <cjson/cJSON.h>

#include "ctl/json_text.h"
#include "ctl/place.h"

/* Exit codes of brumactl. */
enum { CTL_OK = 0, CTL_PROBLEM = 1, CTL_USAGE = 2, CTL_UNREACHABLE = 3 };

/* What was received as JSON, its texts fit for a terminal unless the place is asked for JSON
 * (ctl/safe_text.h): the caller's; NULL: it is none. text: or NULL. */
cJSON *answer_parse(const struct place *place, const char *text, size_t len);

/* Asks the agent; *ret is an array of the items, which the caller deletes. argument: value of the key
 * "pod", or NULL. Says what failed (to stderr, or in the place's complaint), and returns an exit code:
 * CTL_OK, CTL_PROBLEM (the agent answered with an error) or CTL_UNREACHABLE. */
int agent_query(const struct place *place, const char *op, const char *argument, cJSON **ret);

/* The agent's finding on whether a connection of the pod to "IP:PORT" is captured: an array as above, empty
 * if this node has no such pod. Exit codes as above; without an agent CTL_UNREACHABLE, and nothing is
 * printed. */
int agent_capture(const struct place *place, const char *pod, const char *to, cJSON **ret);

/* The proxy's config dump, which the caller deletes. Exit code CTL_OK, or CTL_UNREACHABLE, and
 * the reason is said as above. */
int proxy_dump(const struct place *place, cJSON **ret);

/* What the destination's policies say of a connection from ("IP:PORT") to ("IP:PORT"),
 * {"allowed","policy","text"}, which the caller deletes; identity "": without mutual TLS. An exit code:
 * CTL_OK, CTL_UNREACHABLE, or CTL_PROBLEM, and nothing is printed, if the proxy cannot tell. */
int proxy_verdict(const struct place *place, const char *identity, const char *from, const char *to,
                  cJSON **ret);

/* How a DNS query of the pod ("NAMESPACE/NAME") for the name is answered: the object of the page /name, which
 * the caller deletes. An exit code: CTL_OK, or CTL_PROBLEM, and nothing is printed, if the proxy cannot
 * tell. */
int proxy_name(const struct place *place, const char *pod, const char *name, cJSON **ret);

/* What the proxy knows of a hostname of a workload: the object of the page /hostname, which the caller
 * deletes. An exit code: CTL_OK, or CTL_PROBLEM, and nothing is printed, if the proxy cannot tell. */
int proxy_hostname(const struct place *place, const char *hostname, cJSON **ret);

#endif
