/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "lib/cleanup.h"
#include "lib/file.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

#define CONNECT_MS  5000
#define SILENCE_MS  45000      /* without an acknowledgement of what was sent */
#define ERROR_BODY  (8 * 1024) /* of a stream that did not begin */
#define CA_CACHE    60L        /* seconds for which connections may be made with a CA file of before */
#define CONNECTIONS 16L        /* at a time; what is beyond waits */
#define BACKOFF_MIN 500u
#define BACKOFF_MAX 30000u

struct kube_client {
    struct loop *loop;
    CURLM *multi;
    struct loop_timer timer; /* of libcurl */
    struct loop_timer soon;  /* some request has failed before it began */
    struct list requests;
    char *server, *ca_file, *token_file;
};

struct kube_request {
    struct list node;
    struct kube_client *client;
    CURL *easy;
    struct curl_slist *headers;
    char *body; /* that is sent */
    char *buf;  /* that has come and was not handed on */
    size_t len, size, max;
    bool begun, delivered; /* the headers of a stream have come, and were handed on */
    bool too_big, finished;
    int result;
    kube_part_fn part;
    kube_done_fn done;
    void *data;
    char error[CURL_ERROR_SIZE];
};

/* A socket of libcurl's. */
struct kube_socket {
    struct loop_watch watch;
    struct kube_client *client;
};

/* ---- sockets and timers ---- */

static void deliver(struct kube_client *c);

static void act(struct kube_client *c, curl_socket_t fd, int what)
{
    int running;

    (void)curl_multi_socket_action(c->multi, fd, what, &running);
    deliver(c);
}

static void on_socket(struct loop_watch *watch, uint32_t events)
{
    struct kube_socket *s = container_of(watch, struct kube_socket, watch);
    int what = 0;

    if (events & (EPOLLIN | EPOLLHUP))
        what |= CURL_CSELECT_IN;
    if (events & EPOLLOUT)
        what |= CURL_CSELECT_OUT;
    if (events & EPOLLERR)
        what |= CURL_CSELECT_ERR;
    act(s->client, watch->fd, what);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *socket_data)
{
    struct kube_client *c = data;
    struct kube_socket *s = socket_data;
    uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            loop_watch_remove(c->loop, &s->watch);
            loop_free_later(c->loop, s);
            curl_multi_assign(c->multi, fd, NULL);
        }
        return 0;
    }
    if (s)
        return loop_watch_modify(c->loop, &s->watch, events) < 0 ? -1 : 0;
    s = calloc(1, sizeof(*s));
    if (!s)
        return -1;
    s->client = c;
    if (loop_watch_add(c->loop, &s->watch, fd, events, on_socket) < 0) {
        free(s);
        return -1;
    }
    curl_multi_assign(c->multi, fd, s);
    return 0;
}

static int want_timer(CURLM *multi, long milliseconds, void *data)
{
    struct kube_client *c = data;

    (void)multi;
    if (milliseconds < 0)
        loop_timer_cancel(&c->timer);
    else
        loop_timer_set(c->loop, &c->timer, (uint64_t)milliseconds);
    return 0;
}

static void on_timer(struct loop_timer *timer)
{
    act(container_of(timer, struct kube_client, timer), CURL_SOCKET_TIMEOUT, 0);
}

static void on_soon(struct loop_timer *timer)
{
    deliver(container_of(timer, struct kube_client, soon));
}

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

/* ---- answers ---- */

static int status_of(struct kube_request *q)
{
    long status = 0;

    if (q->easy)
        (void)curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    return (int)status;
}

static bool streams(struct kube_request *q)
{
    return q->part && status_of(q) == 200;
}

static size_t on_body(char *bytes, size_t one, size_t len, void *data)
{
    struct kube_request *q = data;
    size_t max = q->part && !streams(q) ? ERROR_BODY : q->max;

    (void)one;
    if (len > max - q->len) {
        if (q->part && !streams(q))
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
    if (len <= 2 && (*bytes == '\r' || *bytes == '\n') && streams(q))
        q->begun = true;
    return len;
}

static int result_of(const struct kube_request *q, CURLcode code)
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

static void take_finished(struct kube_client *c)
{
    CURLMsg *m;
    int left;

    while ((m = curl_multi_info_read(c->multi, &left))) {
        struct kube_request *q = NULL;

        if (m->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &q);
        q->finished = true;
        q->result = result_of(q, m->data.result);
        if (q->too_big)
            snprintf(q->error, sizeof(q->error), "the answer is larger than %zu bytes", q->max);
        else if (q->result && !*q->error)
            snprintf(q->error, sizeof(q->error), "%s", curl_easy_strerror(m->data.result));
    }
}

static void request_free(struct kube_request *q)
{
    list_del(&q->node);
    if (q->easy) {
        (void)curl_multi_remove_handle(q->client->multi, q->easy);
        curl_easy_cleanup(q->easy);
    }
    curl_slist_free_all(q->headers);
    free(q->body);
    free(q->buf);
    free(q);
}

static void finish(struct kube_request *q)
{
    kube_done_fn done = q->done;
    void *data = q->data;
    char error[CURL_ERROR_SIZE];
    _cleanup_free_ char *body = take_pointer(q->buf);
    struct kube_reply reply = {.result = q->result, .body = "", .len = q->len, .error = error};

    if (!reply.result)
        reply.status = status_of(q);
    if (body) {
        body[q->len] = '\0';
        reply.body = body;
    }
    memcpy(error, q->error, sizeof(error));
    request_free(q);
    done(data, &reply);
}

/* What has come of a stream is taken out first: inside part() the request may go. */
static void hand_on(struct kube_request *q)
{
    _cleanup_free_ char *bytes = take_pointer(q->buf);
    size_t len = q->len;

    q->len = q->size = 0;
    q->delivered = true;
    q->part(q->data, bytes ? bytes : "", len);
}

static struct kube_request *find_ready(struct kube_client *c)
{
    struct kube_request *q;

    list_for_each (q, &c->requests, node) {
        if (q->finished || (q->len && streams(q)) || (q->begun && !q->delivered))
            return q;
    }
    return NULL;
}

/* One at a time and from the beginning each time: callbacks send and cancel. */
static void deliver(struct kube_client *c)
{
    struct kube_request *q;

    take_finished(c);
    while ((q = find_ready(c))) {
        if ((q->len && streams(q)) || (q->begun && !q->delivered))
            hand_on(q);
        else
            finish(q);
    }
}

/* ---- requests ---- */

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

static int start(struct kube_request *q, const struct kube_call *call)
{
    char url[KUBE_URL_MAX];
    int r = add_headers(q, call);

    if (r < 0)
        return r;
    if (q->finished) {
        loop_timer_set(q->client->loop, &q->client->soon, 0);
        return 0;
    }
    if (call->body && !(q->body = strdup(call->body)))
        return -ENOMEM;
    if (snprintf(url, sizeof(url), "%s%s", q->client->server, call->path) >= (int)sizeof(url))
        return -ENOMEM;
    q->easy = curl_easy_init();
    if (!q->easy)
        return -ENOMEM;
    set_options(q, call, url);
    return curl_multi_add_handle(q->client->multi, q->easy) == CURLM_OK ? 0 : -ENOMEM;
}

int kube_send(struct kube_client *client, const struct kube_call *call, struct kube_request **ret)
{
    struct kube_request *q = calloc(1, sizeof(*q));
    int r;

    if (!q)
        return -ENOMEM;
    q->client = client;
    q->max = call->body_max;
    q->part = call->part;
    q->done = call->done;
    q->data = call->data;
    list_add_tail(&client->requests, &q->node);
    r = start(q, call);
    if (r < 0) {
        request_free(q);
        return r;
    }
    *ret = q;
    return 0;
}

void kube_cancel(struct kube_request **request)
{
    if (*request)
        request_free(*request);
    *request = NULL;
}

/* ---- the client ---- */

static void set_multi(struct kube_client *c)
{
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, 8L);
    curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, CONNECTIONS);
}

int kube_client_new(struct loop *loop, const struct kube_client_config *config, struct kube_client **ret)
{
    struct kube_client *c;
    size_t len = strlen(config->server);

    if (strncmp(config->server, "https://", 8) || len < 9 || len > 512)
        return -EINVAL;
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->loop = loop;
    list_init(&c->requests);
    loop_timer_init(&c->timer, on_timer);
    loop_timer_init(&c->soon, on_soon);
    c->server = strndup(config->server, config->server[len - 1] == '/' ? len - 1 : len);
    c->ca_file = strdup(config->ca_file);
    c->token_file = config->token_file ? strdup(config->token_file) : NULL;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK)
        c->multi = curl_multi_init();
    if (!c->server || !c->ca_file || (config->token_file && !c->token_file) || !c->multi) {
        kube_client_free(&c);
        return -ENOMEM;
    }
    set_multi(c);
    *ret = c;
    return 0;
}

void kube_client_free(struct kube_client **client)
{
    struct kube_client *c = *client;
    struct kube_request *q;

    if (!c)
        return;
    list_for_each (q, &c->requests, node)
        request_free(q);
    if (c->multi)
        (void)curl_multi_cleanup(c->multi);
    loop_timer_cancel(&c->timer);
    loop_timer_cancel(&c->soon);
    free(c->server);
    free(c->ca_file);
    free(c->token_file);
    free(c);
    *client = NULL;
}

const char *kube_client_server(const struct kube_client *client)
{
    return client->server;
}

int kube_append_encoded(char *url, size_t size, const char *text)
{
    size_t len = strlen(url);

    for (; *text; text++) {
        bool plain = isalnum((unsigned char)*text) || strchr("-._~", *text);
        int n = snprintf(url + len, size - len, plain ? "%c" : "%%%02X", (unsigned char)*text);

        if ((size_t)n >= size - len)
            return -ENAMETOOLONG;
        len += (size_t)n;
    }
    return 0;
}

unsigned kube_backoff(unsigned tries)
{
    unsigned wait = tries < 6 ? BACKOFF_MIN << tries : BACKOFF_MAX, noise = 0;

    if (getrandom(&noise, sizeof(noise), GRND_NONBLOCK) < 0)
        noise = 0; /* right after a boot: the wait is its longest */
    return wait - noise % (wait / 2 + 1);
}
