/* SPDX-License-Identifier: Apache-2.0 */
/* Who may ask what of the pages on loopback, where every user of the machine can connect, and every web page
 * that a browser of this machine shows. The Unix socket needs none of this: it is root's alone. */
#ifndef PROXY_ADMIN_ADMIN_ACCESS_H
#define PROXY_ADMIN_ADMIN_ACCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/log_rest.h"
#include "lib/rpc/http_server.h"

struct admin_refusals {
    uint64_t count;
    struct log_rest line; /* anybody on the machine can cause it */
};

/* Whether the request may be served; otherwise it has been answered with 403, which says why. local_only: of
 * a single machine, where nobody has to come by TCP: what changes something is for the socket alone, and what
 * tells something for root. Else root may do both (port forwarding of a cluster comes as root), and everybody
 * may read. socket: its path, for the text; NULL: there is none. now: milliseconds, as loop_now(). */
bool admin_may_ask(struct http_request *request, bool local_only, const char *socket,
                   struct admin_refusals *refusals, uint64_t now);

#endif
