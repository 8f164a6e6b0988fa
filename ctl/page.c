/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/page.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

#include "bruma/mesh.h"
#include "ctl/kube/forward.h"
#include "ctl/safe_text.h"
#include "lib/cleanup.h"

#define TIMEOUT  30L                  /* seconds of one request */
#define SILENCE  10L                  /* seconds in which nothing comes */
#define BODY_MAX (512u * 1024 * 1024) /* bytes of an answer, such as the dump of a large mesh */

struct page_session {
    CURL *curl;
    struct forward *forward; /* or NULL: on this machine */
    char socket[256];        /* its path there */
};

static int on_progress(void *data, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const bool *stop = data;

    (void)a, (void)b, (void)c, (void)d;
    return __atomic_load_n(stop, __ATOMIC_RELAXED);
}

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
    curl_easy_setopt(s->curl, CURLOPT_TIMEOUT, TIMEOUT);
    curl_easy_setopt(s->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(s->curl, CURLOPT_LOW_SPEED_TIME, SILENCE);
    curl_easy_setopt(s->curl, CURLOPT_ACCEPT_ENCODING, "gzip");
    curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, http_body_take);
    if (place->stop) {
        curl_easy_setopt(s->curl, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(s->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(s->curl, CURLOPT_XFERINFODATA, place->stop);
    }
    r = place->run_dir ? open_local(s, place, error) : open_remote(s, place, whose, error);
    if (r < 0)
        page_close(&s);
    else
        *ret = s;
    return r;
}

/* Words about its time; or NULL. */
static const char *lateness(struct page_session *s, CURLcode code, char *buf, size_t size)
{
    curl_off_t microseconds = 0;

    if (code != CURLE_OPERATION_TIMEDOUT)
        return NULL;
    curl_easy_getinfo(s->curl, CURLINFO_TOTAL_TIME_T, &microseconds);
    if (microseconds < TIMEOUT * 1000000)
        snprintf(buf, size, "nothing has come for %ld seconds", SILENCE);
    else
        snprintf(buf, size, "the answer was not whole after %ld seconds", TIMEOUT);
    return buf;
}

/* libcurl's own words would name the host of the URL, which is not asked. */
static void complain(struct page_session *s, CURLcode code, const struct received_body *body,
                     const char *detail, char *error)
{
    char text[64];
    const char *why = lateness(s, code, text, sizeof(text)), *forwards;

    if (s->forward && *(forwards = forward_complaint(s->forward)))
        why = forwards;
    else if (body->too_long &&
             snprintf(text, sizeof(text), "the answer is longer than %zu MiB", body->max >> 20) > 0)
        why = text;
    else if (code == CURLE_COULDNT_CONNECT)
        why = access(s->socket, W_OK) < 0 ? strerror(errno) : "nothing listens there";
    snprintf(error, PLACE_COMPLAINT_MAX, "%s",
             why && *why ? why
             : *detail   ? detail
                         : curl_easy_strerror(code));
    text_clean(error);
}

int page_get(struct page_session *s, const char *path, struct received_body *body, long *ret_status,
             char *error)
{
    char detail[CURL_ERROR_SIZE] = "";
    _cleanup_free_ char *url = NULL;
    CURLcode code;

    *body = (struct received_body){.max = BODY_MAX};
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
        complain(s, code, body, detail, error);
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
