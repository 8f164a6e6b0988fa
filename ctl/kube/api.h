/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to an API server; each call waits for its answer. Any thread. */
#ifndef CTL_KUBE_API_H
#define CTL_KUBE_API_H

#include <cjson/cJSON.h>
#include <curl/curl.h>

#include "ctl/kube/kubeconfig.h"

#define API_ERROR_MAX 512 /* bytes of an error's text with its NUL */

/* ret is the caller's; path: "/api/v1/nodes?limit=500", encoded; body: JSON to POST; NULL: GET. Returns 0;
 * -EACCES (401 and 403), -ENOENT (404), -EPROTO (another status, no JSON, or too long), -EIO (no answer),
 * -ENOMEM, -EOPNOTSUPP; with words in error. */
int api_ask(const struct kube_access *access, const char *path, const char *body, cJSON **ret,
            char error[API_ERROR_MAX]);
/* GET of all pages of a list, whose path has a query: *ret is an array of its items, the caller's. 0 or
 * -errno as above. */
int api_list(const struct kube_access *access, const char *path, cJSON **ret, char error[API_ERROR_MAX]);

/* A handle that reaches the server as that user. */
struct api_request {
    CURL *curl;
    struct curl_slist *headers;    /* who asks; not set in the handle */
    struct curl_slist *connect_to; /* the handle's */
    char *host, *path;             /* of the request */
};

/* For a path as above; access outlives it. 0, or -ENOMEM or -EOPNOTSUPP (libcurl lacks what the access needs)
 * with words in error: nothing is left to close then. */
int api_open(const struct kube_access *access, const char *path, struct api_request *ret,
             char error[API_ERROR_MAX]);
/* Frees what it holds. */
void api_close(struct api_request *request);
/* A status as api_ask() has it, with what the server says in its body; 0 of 200 to 299. */
int api_status(long status, const char *body, size_t len, char error[API_ERROR_MAX]);
/* Words for a failure of the connection; -EIO. detail: libcurl's, or "". */
int api_failed(const struct kube_access *access, CURLcode code, const char *detail,
               char error[API_ERROR_MAX]);

#endif
