/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/page.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

#include "bruma/mesh.h"
#include "ctl/kube/forward.h"
#include "lib/cleanup.h"

#define TIMEOUT 30000L /* milliseconds of one request */

struct page_session {
    CURL *curl;
    struct forward *forward; /* or NULL: on this machine */
    char socket[256];        /* its path there */
};

static int open_remote(struct page_session *s, const struct place *place, enum page_whose whose, char *error)
{
    const char *pod = whose == PAGE_AGENT ? place->agent : place->proxy;
    unsigned port = whose == PAGE_AGENT ? place->agent_port : place->proxy_port;
    int r;

    if (!pod || !port) {
        snprintf(error, PLACE_COMPLAINT_MAX,
                 pod ? "%s pod %s serves no page on loopback (cni.readyPort of the chart is 0)"
                     : "there is no pod of the %s",
                 whose == PAGE_AGENT ? "agent" : "proxy", pod);
        return -ENOENT;
    }
    r = forward_open(place->access, place->namespace, pod, port, &s->forward, error);
    if (r < 0)
        return r;
    curl_easy_setopt(s->curl, CURLOPT_UNIX_SOCKET_PATH, forward_socket(s->forward));
    return 0;
}

static int open_local(struct page_session *s, const struct place *place, char *error)
{
    int n = snprintf(s->socket, sizeof(s->socket), "%s/%s", place->run_dir, BRUMA_PROXY_SOCKET);

    if (n >= (int)sizeof(s->socket)) {
        snprintf(error, PLACE_COMPLAINT_MAX, "the path is too long");
        return -ENAMETOOLONG;
    }
    curl_easy_setopt(s->curl, CURLOPT_UNIX_SOCKET_PATH, s->socket);
    return 0;
}

int page_open(const struct place *place, enum page_whose whose, struct page_session **ret, char *error)
{
    struct page_session *s = calloc(1, sizeof(*s));
    int r;

    if (s)
        s->curl = curl_easy_init();
    if (!s || !s->curl) {
        free(s);
        snprintf(error, PLACE_COMPLAINT_MAX, "out of memory");
        return -ENOMEM;
    }
    curl_easy_setopt(s->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(s->curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(s->curl, CURLOPT_TIMEOUT_MS, TIMEOUT);
    curl_easy_setopt(s->curl, CURLOPT_ACCEPT_ENCODING, "gzip");
    curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, http_body_take);
    r = place->run_dir ? open_local(s, place, error) : open_remote(s, place, whose, error);
    if (r < 0)
        page_close(&s);
    else
        *ret = s;
    return r;
}

/* libcurl's own words would name the host of the URL, which is not asked. */
static void complain(struct page_session *s, CURLcode code, const char *detail, char *error)
{
    const char *why = NULL;

    if (s->forward)
        why = forward_complaint(s->forward);
    else if (code == CURLE_COULDNT_CONNECT)
        why = access(s->socket, W_OK) < 0 ? strerror(errno) : "nothing listens there";
    snprintf(error, PLACE_COMPLAINT_MAX, "%s",
             why && *why ? why
             : *detail   ? detail
                         : curl_easy_strerror(code));
}

int page_get(struct page_session *s, const char *path, struct received_body *body, long *ret_status,
             char *error)
{
    char detail[CURL_ERROR_SIZE] = "";
    _cleanup_free_ char *url = NULL;
    CURLcode code;

    *body = (struct received_body){};
    if (asprintf(&url, "http://localhost%s", path) < 0) {
        url = NULL;
        snprintf(error, PLACE_COMPLAINT_MAX, "out of memory");
        return -ENOMEM;
    }
    curl_easy_setopt(s->curl, CURLOPT_URL, url);
    curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, body);
    curl_easy_setopt(s->curl, CURLOPT_ERRORBUFFER, detail);
    code = curl_easy_perform(s->curl);
    curl_easy_setopt(s->curl, CURLOPT_ERRORBUFFER, NULL);
    if (code != CURLE_OK) {
        free(take_pointer(body->data));
        complain(s, code, detail, error);
        return -EIO;
    }
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, ret_status);
    return 0;
}

void page_close(struct page_session **session)
{
    struct page_session *s = *session;

    if (!s)
        return;
    curl_easy_cleanup(s->curl); /* closes the socket, which ends the forward */
    forward_close(&s->forward);
    free(s);
    *session = NULL;
}
