/* SPDX-License-Identifier: Apache-2.0 */
/* One line of `brumactl flows`: whether it is wanted, and how it looks. */
#ifndef CTL_FLOW_LINE_H
#define CTL_FLOW_LINE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>

/* NULL is any. Ends are "NAMESPACE", "NAMESPACE/NAME", an address, an identity or a service's host name. */
struct flow_filter {
    const char *from, *to, *reason;
    bool refused; /* only those that have a reason */
};

/* Whether the filter wants the line, an object of the proxy's access log as JSON. */
bool flow_filter_has(const struct flow_filter *filter, const cJSON *line);
/* Prints it: as JSON on one line, or for people; with colours only on a terminal. */
void flow_line_print(const cJSON *line, bool json, FILE *out);

#endif
