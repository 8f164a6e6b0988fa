/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/http_connection.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- its end ---- */

static void enter(struct http_connection *c, enum http_state state, uint64_t milliseconds)
{
    c->state = state;
    loop_timer_set(c->server->loop, &c->timer, milliseconds);
}

void http_connection_wake(struct http_server *s)
{
    if (!s->running && !s->closed)
        eventfd_write(s->wake.fd, 1);
}

static void resume(struct http_connection *c)
{
    c->suspended = false;
    MHD_resume_connection(c->mhd);
    http_connection_wake(c->server);
}

/* Nobody waits for it any more. */
static void leave_request(struct http_connection *c)
{
    if (!c->request)
        return;
    c->request->connection = NULL;
    if (c->state == HTTP_BODY)
        free(c->request); /* nobody has seen it yet */
    c->request = NULL;
}

void http_connection_shut(struct http_connection *c)
{
    if (c->shut)
        return;
    c->shut = true;
    leave_request(c);
    loop_timer_cancel(&c->timer);
    loop_watch_remove(c->server->loop, &c->hangup);
    client_limits_remove(&c->server->clients, &c->member);
    shutdown(c->fd, SHUT_RDWR);
    if (c->suspended)
        resume(c);
}

void http_connection_free(struct http_connection *c)
{
    c->suspended = false;
    http_connection_shut(c);
    if (c->answer)
        MHD_destroy_response(c->answer);
    list_del(&c->node);
    loop_free_later(c->server->loop, c);
}

void http_connection_look(struct http_connection *c)
{
    char byte;

    if (c->half_closed && !c->shut && c->state != HTTP_HANDLING && c->state != HTTP_WRITING &&
        recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        http_connection_shut(c);
}

static void on_hangup(struct loop_watch *watch, uint32_t events)
{
    struct http_connection *c = container_of(watch, struct http_connection, hangup);

    c->half_closed = true;
    if (events & (EPOLLERR | EPOLLHUP)) {
        http_connection_shut(c);
        return;
    }
    (void)loop_watch_modify(c->server->loop, watch, 0);
    http_connection_look(c);
}

enum client_worth http_connection_worth(const struct limited_client *member)
{
    const struct http_connection *c = container_of(member, struct http_connection, member);

    switch (c->state) {
    case HTTP_IDLE:
        return CLIENT_IDLE;
    case HTTP_READING:
    case HTTP_BODY:
        return CLIENT_UNPROVEN;
    default:
        return CLIENT_BUSY;
    }
}

/* Who is slow with a request is told; a connection that was kept and not used is not. The library has nothing
 * to say meanwhile. */
static bool answer_slow(struct http_connection *c)
{
    static const char text[] =
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

    if (c->told || (c->state != HTTP_READING && c->state != HTTP_BODY) ||
        send(c->fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof(text) - 1)
        return false;
    c->told = true;
    shutdown(c->fd, SHUT_WR);
    loop_timer_set(c->server->loop, &c->timer, HTTP_LINGER_TIME);
    return true;
}

static void on_time(struct loop_timer *timer)
{
    struct http_connection *c = container_of(timer, struct http_connection, timer);

    if (!answer_slow(c))
        http_connection_shut(c);
}

/* ---- requests ---- */

struct headers {
    unsigned hosts, lengths, encodings;
    bool too_long, expects_other, malformed;
};

/* RFC 9110, section 5.6.2. */
static bool is_token(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)text[i]) && (!text[i] || !strchr("!#$%&'*+-.^_`|~", text[i])))
            return false;
    }
    return len > 0;
}

/* Section 5.5: nothing of a value controls anything. */
static bool is_printable(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (((unsigned char)text[i] < ' ' && text[i] != '\t') || text[i] == 0x7f)
            return false;
    }
    return true;
}

static enum MHD_Result look_at_header(void *data, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                      const char *value, size_t value_len)
{
    struct headers *h = data;

    (void)kind;
    h->malformed |= !is_token(name, name_len) || !is_printable(value, value_len);
    if (!strcasecmp(name, "host"))
        h->hosts++;
    else if (!strcasecmp(name, "transfer-encoding"))
        h->encodings++;
    else if (!strcasecmp(name, "expect"))
        h->expects_other |= !value || strcasecmp(value, "100-continue") != 0;
    else if (!strcasecmp(name, "content-length")) {
        h->lengths++;
        h->too_long |= value && strtoull(value, NULL, 10) > HTTP_BODY_MAX;
    }
    return MHD_YES;
}

static bool is_target(const char *target)
{
    return *target == '/' || !strcmp(target, "*") || !strncasecmp(target, "http://", 7);
}

/* 0, or what is said to a head that the library would take: it sees no harm in two answers to one question,
 * nor in what RFC 9110 has no form for. */
static int refusal(struct MHD_Connection *mhd, const char *target, const char *method)
{
    struct headers h = {0};

    MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, look_at_header, &h);
    if (h.malformed || !is_target(target) || !is_token(method, strlen(method)))
        return MHD_HTTP_BAD_REQUEST;
    if (h.hosts > 1 || h.lengths > 1 || (h.lengths && h.encodings))
        return MHD_HTTP_BAD_REQUEST;
    if (h.encodings)
        return MHD_HTTP_LENGTH_REQUIRED;
    return h.too_long ? 413 : h.expects_other ? MHD_HTTP_EXPECTATION_FAILED : 0;
}

/* Gives the answer to the library, or has it close the connection. */
static enum MHD_Result send_answer(struct http_connection *c)
{
    struct MHD_Response *answer = c->answer;
    enum MHD_Result r = MHD_NO;

    if (!answer)
        return r;
    c->answer = NULL;
    if (!c->shut) {
        enter(c, HTTP_WRITING, HTTP_ANSWER_TIME);
        r = MHD_queue_response(c->mhd, c->status, answer);
    }
    MHD_destroy_response(answer);
    return r;
}

static enum MHD_Result begin(struct http_connection *c, const char *target, const char *method)
{
    int status = refusal(c->mhd, target, method);

    if (status == 0)
        c->request = malloc(sizeof(*c->request));
    if (!c->request) {
        c->status = status ? (unsigned)status : MHD_HTTP_SERVICE_UNAVAILABLE;
        c->answer = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
        if (c->answer)
            MHD_add_response_header(c->answer, "Connection", "close");
        return send_answer(c);
    }
    *c->request = (struct http_request){c, method, target};
    enter(c, HTTP_BODY, HTTP_HEAD_TIME);
    return MHD_YES;
}

static enum MHD_Result handle(struct http_connection *c)
{
    struct http_server *s = c->server;

    enter(c, HTTP_HANDLING, HTTP_ANSWER_TIME);
    s->fn(s->data, c->request);
    if (!c->request)
        return send_answer(c);
    c->suspended = true;
    MHD_suspend_connection(c->mhd);
    return MHD_YES;
}

/* Called with the head, with each part of a body, at its end, and again when it has been resumed. */
enum MHD_Result http_connection_request(void *data, struct MHD_Connection *mhd, const char *target,
                                        const char *method, const char *version, const char *upload,
                                        size_t *upload_len, void **context)
{
    struct http_connection *c =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;

    (void)data;
    (void)version;
    (void)upload;
    if (!c || c->told)
        return MHD_NO;
    if (c->shut)
        return send_answer(c);
    if (!*context) {
        *context = c;
        return begin(c, target, method);
    }
    if (*upload_len) {
        *upload_len = 0;
        return MHD_YES;
    }
    return c->state == HTTP_BODY ? handle(c) : send_answer(c);
}

void http_connection_answer(struct http_request *request, int status, struct MHD_Response *answer)
{
    struct http_connection *c = request->connection;

    free(request);
    if (!c) {
        if (answer)
            MHD_destroy_response(answer);
        return;
    }
    c->request = NULL;
    c->answer = answer;
    c->status = (unsigned)status;
    if (c->suspended)
        resume(c);
}

void http_connection_completed(void *data, struct MHD_Connection *mhd, void **context,
                               enum MHD_RequestTerminationCode how)
{
    struct http_connection *c = *context;

    (void)data;
    (void)mhd;
    (void)how;
    *context = NULL;
    if (!c || c->shut)
        return;
    leave_request(c);
    enter(c, HTTP_IDLE, HTTP_IDLE_TIME);
    client_limits_refresh(&c->server->clients, &c->member);
}

/* ---- its beginning ---- */

void http_connection_notified(void *data, struct MHD_Connection *mhd, void **context,
                              enum MHD_ConnectionNotificationCode what)
{
    struct http_server *s = data;
    struct http_connection *c;
    int fd;

    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (*context)
            http_connection_free(*context);
        return;
    }
    fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    list_for_each (c, &s->connections, node) {
        if (c->fd == fd) {
            c->mhd = mhd;
            *context = c;
            return;
        }
    }
}

static bool is_there(const struct http_server *s, const struct http_connection *connection)
{
    struct http_connection *c;

    list_for_each (c, &s->connections, node) {
        if (c == connection)
            return true;
    }
    return false;
}

int http_connection_new(struct http_server *s, int fd, const struct peer_source *source)
{
    const struct sockaddr_in nobody = {.sin_family = AF_INET}; /* the library has no use for the true one */
    struct http_connection *c = calloc(1, sizeof(*c));
    int r;

    if (!c) {
        close(fd);
        return -ENOMEM;
    }
    c->server = s;
    c->fd = fd;
    c->hangup.fd = -1;
    c->member.source = *source;
    loop_timer_init(&c->timer, on_time);
    list_add_tail(&s->connections, &c->node);
    client_limits_add(&s->clients, &c->member);
    enter(c, HTTP_READING, HTTP_HEAD_TIME);
    if (MHD_add_connection(s->daemon, fd, (const struct sockaddr *)&nobody, sizeof(nobody)) == MHD_YES) {
        r = loop_watch_add(s->loop, &c->hangup, fd, EPOLLRDHUP, on_hangup);
        if (r < 0)
            http_connection_shut(c);
        return r;
    }
    /* The descriptor is closed; what had been notified of its end is freed. */
    r = -errno;
    if (is_there(s, c)) {
        c->shut = true;
        loop_timer_cancel(&c->timer);
        client_limits_remove(&s->clients, &c->member);
        http_connection_free(c);
    }
    return r;
}
