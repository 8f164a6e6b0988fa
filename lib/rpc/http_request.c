/* SPDX-License-Identifier: Apache-2.0 */
/* What a request says. */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "lib/rpc/http_accept.h"
#include "lib/rpc/http_connection.h"

bool http_method_is(const struct http_request *request, const char *method)
{
    return request->connection && !strcmp(request->method, method);
}

/* "http://host" in front of the path is left out. */
const char *http_path(const struct http_request *request)
{
    const char *target = request->connection ? request->target : "";

    if (!strncasecmp(target, "http://", 7)) {
        target = strchr(target + 7, '/');
        if (!target)
            target = "/";
    }
    return target;
}

bool http_path_is(const struct http_request *request, const char *path)
{
    return !strcmp(http_path(request), path);
}

const struct peer_source *http_request_source(const struct http_request *request)
{
    return request->connection ? &request->connection->member.source : NULL;
}

const char *http_header(const struct http_request *request, const char *name)
{
    if (!request->connection)
        return NULL;
    return MHD_lookup_connection_value(request->connection->mhd, MHD_HEADER_KIND, name);
}

bool http_request_accepts_gzip(const struct http_request *request)
{
    return http_accepts_gzip(http_header(request, "Accept-Encoding"));
}

bool http_has_query(const struct http_request *request)
{
    return request->connection &&
           MHD_get_connection_values(request->connection->mhd, MHD_GET_ARGUMENT_KIND, NULL, NULL) > 0;
}

int http_query(const struct http_request *request, const char *name, char *buf, size_t size)
{
    const char *value = NULL;
    size_t len = 0;

    if (!request->connection || MHD_lookup_connection_value_n(request->connection->mhd, MHD_GET_ARGUMENT_KIND,
                                                              name, strlen(name), &value, &len) != MHD_YES)
        return -ENOENT;
    if (!value)
        len = 0;
    if (len >= size || (value && memchr(value, '\0', len)))
        return -EINVAL;
    if (value)
        memcpy(buf, value, len);
    buf[len] = '\0';
    return (int)len;
}
