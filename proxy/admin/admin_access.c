/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "admin"
#include "proxy/admin/admin_access.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/reasons.h"

/* There is one such header. Another name that leads here has been made to (DNS rebinding): the page that asks
 * is somebody else's. */
static bool names_loopback(const struct http_request *request)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    const char *host = http_header(request, "Host");

    for (size_t i = 0; host && i < array_size(names); i++) {
        size_t len = strlen(names[i]);

        if (!strncasecmp(host, names[i], len) && (!host[len] || host[len] == ':'))
            return true;
    }
    return false;
}

/* Browsers say for whom they ask. A tool of an operator sends neither of the two. */
static bool is_of_another_page(const struct http_request *request)
{
    const char *site = http_header(request, "Sec-Fetch-Site");

    return http_header(request, "Origin") ||
           (site && strcasecmp(site, "none") != 0 && strcasecmp(site, "same-origin") != 0);
}

static bool is_roots(const struct http_request *request)
{
    const struct peer_source *source = http_request_source(request);

    return source && source->is_user && (source->uid == 0 || source->uid == geteuid());
}

bool admin_may_ask(struct http_request *request, bool local_only, const char *socket,
                   struct admin_refusals *refusals, uint64_t now)
{
    bool reads = http_method_is(request, "GET") || http_method_is(request, "HEAD"), is_index;
    const char *why = NULL;
    char text[256];
    uint64_t unsaid;

    is_index = reads && http_path_is(request, "/");
    if (!names_loopback(request))
        why = "the Host header is not localhost, 127.0.0.1 or [::1]";
    else if (is_of_another_page(request))
        why = "the request comes from a foreign web page";
    else if (!reads && local_only)
        why = "on a single machine only the Unix socket takes this";
    else if (!is_index && (!reads || local_only) && !is_roots(request))
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
