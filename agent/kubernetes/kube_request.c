/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_request.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/file.h"

#define CONNECT_MS 5000
#define SILENCE_MS 45000      /* without an acknowledgement of what was sent */
#define ERROR_BODY (8 * 1024) /* of a stream that did not begin */
#define CA_CACHE   60L        /* seconds for which connections may be made with a CA file of before */

/* ---- what comes back ---- */

int kube_request_status(struct kube_request *q)
{
    long status = 0;

    if (q->easy)
        (void)curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    return (int)status;
}

bool kube_request_streams(struct kube_request *q)
{
    return q->part && kube_request_status(q) == 200;
}

static size_t on_body(char *bytes, size_t one, size_t len, void *data)
{
    struct kube_request *q = data;
    size_t max = q->part && !kube_request_streams(q) ? ERROR_BODY : q->max;

    (void)one;
    if (len > max - q->len) {
        if (q->part && !kube_request_streams(q))
            return len; /* the beginning says enough */
        q->too_big = true;
        return 0;
    }
    if (q->len + len + 1 > q->size) {
        size_t size = 2 * (q->len + len + 1);
        char *buf = realloc(q->buf, size);

        if (!buf)
            return 0;
        q->buf = buf;
        q->size = size;
    }
    memcpy(q->buf + q->len, bytes, len);
    q->len += len;
    return len;
}

/* The last header is an empty line. */
static size_t on_header(char *bytes, size_t one, size_t len, void *data)
{
    struct kube_request *q = data;

    (void)one;
    if (len <= 2 && (*bytes == '\r' || *bytes == '\n') && kube_request_streams(q))
        q->begun = true;
    return len;
}

int kube_request_result(const struct kube_request *q, CURLcode code)
{
    if (q->too_big)
        return -EFBIG;
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_OPERATION_TIMEDOUT:
        return -ETIMEDOUT;
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    case CURLE_COULDNT_CONNECT:
        return -ECONNREFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
        return -EHOSTUNREACH;
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_PEER_FAILED_VERIFICATION:
        return -EKEYREJECTED;
    default:
        return -ECONNRESET;
    }
}

/* ---- what is sent ---- */

/* A peer that has lost its power is noticed also on a connection that only listens. */
static int set_socket(void *data, curl_socket_t fd, curlsocktype purpose)
{
    const int on = 1, idle = 20, interval = 8, count = 3, silence = SILENCE_MS;

    (void)data;
    (void)purpose;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence, sizeof(silence));
    return CURL_SOCKOPT_OK;
}

/* One line of printable characters. */
static int read_token(const char *path, char *buf, size_t size)
{
    ssize_t n = file_read_text(AT_FDCWD, path, O_NONBLOCK, buf, size);

    if (n < 0)
        return (int)n;
    while (n > 0 && isspace((unsigned char)buf[n - 1]))
        n--;
    buf[n] = '\0';
    if (!n)
        return -ENODATA;
    for (const char *p = buf; *p; p++) {
        if (!isgraph((unsigned char)*p))
            return -EBADMSG;
    }
    return strlen(buf) == (size_t)n ? 0 : -EBADMSG;
}

static int add_header(struct kube_request *q, const char *text)
{
    struct curl_slist *longer = curl_slist_append(q->headers, text);

    if (!longer)
        return -ENOMEM;
    q->headers = longer;
    return 0;
}

/* Failures but -ENOMEM become the request's result. */
static int add_token(struct kube_request *q)
{
    static const char word[] = "Authorization: Bearer ";
    const char *file = q->client->token_file;
    char header[sizeof(word) + KUBE_TOKEN_MAX];
    int r;

    if (!file)
        return 0;
    memcpy(header, word, sizeof(word));
    r = read_token(file, header + sizeof(word) - 1, KUBE_TOKEN_MAX);
    if (r == 0) {
        r = add_header(q, header);
        explicit_bzero(header, sizeof(header));
        return r;
    }
    q->result = r;
    q->finished = true;
    snprintf(q->error, sizeof(q->error), "the token cannot be read from %.150s: %s", file, strerror(-r));
    return 0;
}

static int add_headers(struct kube_request *q, const struct kube_call *call)
{
    char type[128];
    int r = add_header(q, "Accept: application/json");

    if (r == 0 && call->body) {
        snprintf(type, sizeof(type), "Content-Type: %s",
                 call->content_type ? call->content_type : "application/json");
        r = add_header(q, type);
    }
    if (r == 0)
        r = add_header(q, "Expect:");
    return r < 0 ? r : add_token(q);
}

static void set_options(struct kube_request *q, const struct kube_call *call, const char *url)
{
    struct kube_client *c = q->client;
    CURL *e = q->easy;

    curl_easy_setopt(e, CURLOPT_URL, url);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
    /* Who gives a request up does not wait for the thread that resolves its name. */
    curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
#endif
    /* A connection of its own for each watch, so that none waits for another's window. */
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_CAINFO, c->ca_file);
    curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
    curl_easy_setopt(e, CURLOPT_CA_CACHE_TIMEOUT, CA_CACHE);
    curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "bruma-agent/" BRUMA_VERSION);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, q->headers);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)(call->deadline ? call->deadline : KUBE_DEADLINE_MS));
    curl_easy_setopt(e, CURLOPT_SOCKOPTFUNCTION, set_socket);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, q);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, q);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, q->error);
    curl_easy_setopt(e, CURLOPT_PRIVATE, q);
    if (call->method)
        curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, call->method);
    if (q->body) {
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long)strlen(q->body));
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, q->body);
    }
}

int kube_request_prepare(struct kube_request *q, const struct kube_call *call)
{
    char url[KUBE_URL_MAX];
    int r = add_headers(q, call);

    if (r < 0 || q->finished)
        return r;
    if (call->body && !(q->body = strdup(call->body)))
        return -ENOMEM;
    if (snprintf(url, sizeof(url), "%s%s", q->client->server, call->path) >= (int)sizeof(url))
        return -ENOMEM;
    q->easy = curl_easy_init();
    if (!q->easy)
        return -ENOMEM;
    set_options(q, call, url);
    return 0;
}
