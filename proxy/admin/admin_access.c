/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "admin"
#include "proxy/admin/admin_access.h"

#include <inttypes.h>
#include <stdio.h>

#include "lib/log.h"
#include "lib/reasons.h"
#include "lib/rpc/http_local.h"

bool admin_may_ask(struct http_request *request, bool local_only, const char *socket,
                   struct admin_refusals *refusals, uint64_t now)
{
    bool reads = http_method_is(request, "GET") || http_method_is(request, "HEAD"), is_index;
    const char *why = NULL;
    char text[256];
    uint64_t unsaid;

    is_index = reads && http_path_is(request, "/");
    if (!http_names_loopback(request))
        why = "the Host header is not localhost, 127.0.0.1 or [::1]";
    else if (http_is_of_another_page(request))
        why = "the request comes from a foreign web page";
    else if (!reads && local_only)
        why = "on a single machine only the Unix socket takes this";
    else if (!is_index && (!reads || local_only) && !http_is_roots(request))
        why = "only root may ask this";
    if (!why)
        return true;
    refusals->count++;
    if (log_rest_over(&refusals->line, now, &unsaid))
        log_warn("an admin request is refused\treason=%s why=\"%s\" unsaid=%" PRIu64,
                 reason_name(BRUMA_REASON_ADMIN_REFUSED), why, unsaid);
    snprintf(text, sizeof(text), "refused: %s%s%s\n", why, socket ? "; as root: curl --unix-socket " : "",
             socket ? socket : "");
    http_respond_text(request, 403, text);
    return false;
}
