/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/http_local.h"

#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "lib/cleanup.h"

bool http_names_loopback(const struct http_request *request)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    const char *host = http_header(request, "Host"); /* there is one such header */

    for (size_t i = 0; host && i < array_size(names); i++) {
        size_t len = strlen(names[i]);

        if (!strncasecmp(host, names[i], len) && (!host[len] || host[len] == ':'))
            return true;
    }
    return false;
}

bool http_is_of_another_page(const struct http_request *request)
{
    const char *site = http_header(request, "Sec-Fetch-Site");

    return http_header(request, "Origin") ||
           (site && strcasecmp(site, "none") != 0 && strcasecmp(site, "same-origin") != 0);
}

bool http_is_roots(const struct http_request *request)
{
    const struct peer_source *source = http_request_source(request);

    return source && source->is_user && (source->uid == 0 || source->uid == geteuid());
}
