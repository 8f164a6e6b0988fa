/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_http.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "agent/kubernetes/kube_request.h"
#include "lib/cleanup.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

#define CONNECTIONS 16L /* at a time; what is beyond waits */
#define BACKOFF_MIN 500u
#define BACKOFF_MAX 30000u

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

/* ---- answers ---- */

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
        q->result = kube_request_result(q, m->data.result);
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
        reply.status = kube_request_status(q);
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
        if (q->finished || (q->len && kube_request_streams(q)) || (q->begun && !q->delivered))
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
        if ((q->len && kube_request_streams(q)) || (q->begun && !q->delivered))
            hand_on(q);
        else
            finish(q);
    }
}

/* ---- requests ---- */

static int start(struct kube_request *q, const struct kube_call *call)
{
    int r = kube_request_prepare(q, call);

    if (r == 0 && q->finished)
        loop_timer_set(q->client->loop, &q->client->soon, 0);
    else if (r == 0 && curl_multi_add_handle(q->client->multi, q->easy) != CURLM_OK)
        r = -ENOMEM;
    return r;
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
