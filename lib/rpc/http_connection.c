/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/http_connection.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/rpc/http_gzip.h"
#include "lib/rpc/http_pieces.h"

#define REQUESTS_PER_TURN 16
#define COMPRESS_FROM     1024 /* bytes; less is not worth it */
#define QUEUED_MAX        (256u * 1024 * 1024)

static void go(struct http_connection *c);

/* ---- life ---- */

static void set_timer(struct http_connection *c, uint64_t milliseconds)
{
    loop_timer_set(c->server->loop, &c->timer, milliseconds);
}

/* ---- bodies that are shared ---- */

struct http_body *http_body_new(char *text, size_t len, bool gzip)
{
    struct http_body *b = calloc(1, sizeof(*b));

    if (!b) {
        free(text);
        return NULL;
    }
    b->references = 1;
    b->text = text;
    b->text_len = len;
    if (gzip && len >= COMPRESS_FROM && http_gzip(text, len, &b->gzip, &b->gzip_len) < 0)
        b->gzip = NULL;
    return b;
}

void http_body_unref(struct http_body **body)
{
    struct http_body *b = *body;

    *body = NULL;
    if (!b || --b->references)
        return;
    if (b->server)
        b->server->queued -= b->text_len + b->gzip_len;
    free(b->text);
    free(b->gzip);
    free(b);
}

static void drop_answer(struct http_connection *c)
{
    http_pieces_free(&c->pieces);
    if (c->shared) {
        http_body_unref(&c->shared);
    } else {
        c->server->queued -= c->body_len;
        free(c->body);
    }
    free(c->head);
    c->head = c->body = NULL;
    c->head_len = c->body_len = c->sent = 0;
}

void http_connection_close(struct http_connection *c)
{
    if (c->closed)
        return;
    c->closed = true;
    if (c->request) {
        c->request->connection = NULL;
        if (c->state == HTTP_BODY)
            free(c->request); /* nobody has seen it yet */
    }
    drop_answer(c);
    loop_timer_cancel(&c->timer);
    loop_watch_remove(c->server->loop, &c->watch);
    close(c->fd);
    crowd_remove(&c->server->crowd, &c->member);
    loop_free_later(c->server->loop, c);
}

enum crowd_worth http_connection_worth(const struct crowd_member *member)
{
    const struct http_connection *c = container_of(member, struct http_connection, member);

    switch (c->state) {
    case HTTP_READING:
        return c->started ? CROWD_UNPROVEN : CROWD_IDLE;
    case HTTP_BODY:
        return CROWD_UNPROVEN;
    case HTTP_LINGERING:
        return CROWD_IDLE;
    default:
        return CROWD_BUSY;
    }
}

/* The wish for events of the state; false if the connection had to be closed. */
static bool watch_for(struct http_connection *c, uint32_t events)
{
    if (loop_watch_modify(c->server->loop, &c->watch, events) == 0)
        return true;
    http_connection_close(c);
    return false;
}

static void linger(struct http_connection *c)
{
    drop_answer(c);
    c->state = HTTP_LINGERING;
    shutdown(c->fd, SHUT_WR);
    set_timer(c, HTTP_LINGER_TIME);
    watch_for(c, EPOLLIN | EPOLLRDHUP);
}

static void on_time(struct loop_timer *timer)
{
    struct http_connection *c = container_of(timer, struct http_connection, timer);

    if (c->resume) {
        c->resume = false;
        go(c);
        return;
    }
    /* Somebody who is slow with a head is told; a connection that was kept and not used is not. */
    if (c->state == HTTP_READING && c->in_len) {
        static const char text[] =
            "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

        if (send(c->fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(text) - 1) {
            linger(c);
            return;
        }
    }
    http_connection_close(c);
}

/* ---- answers ---- */

static const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 411:
        return "Length Required";
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 417:
        return "Expectation Failed";
    case 431:
        return "Request Header Fields Too Large";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return status < 400 ? "OK" : status < 500 ? "Bad Request" : "Internal Server Error";
    }
}

static void date_text(char buf[32])
{
    time_t now = time(NULL);
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(buf, 32, "%a, %d %b %Y %H:%M:%S GMT", &tm);
}

/* Takes the body. */
static void queue(struct http_connection *c, const struct http_answer *a, bool without_body, char *body,
                  size_t len, bool gzip)
{
    char date[32], length[64];
    int n;

    date_text(date);
    if (c->pieces)
        snprintf(length, sizeof(length), "%s", c->chunked ? "Transfer-Encoding: chunked\r\n" : "");
    else
        snprintf(length, sizeof(length), "Content-Length: %zu\r\n", len);
    n = asprintf(&c->head, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\n%s%s%s%s%s%s%s\r\n", a->status,
                 status_text(a->status), date, a->type ? a->type : "text/plain; charset=utf-8", length,
                 gzip ? "Content-Encoding: gzip\r\n" : "", a->compress ? "Vary: Accept-Encoding\r\n" : "",
                 a->allow ? "Allow: " : "", a->allow ? a->allow : "", a->allow ? "\r\n" : "",
                 c->last ? "Connection: close\r\n" : "Connection: keep-alive\r\n");
    if (n < 0) {
        c->head = NULL;
        n = 0;
        c->last = true; /* the client sees the connection end without an answer */
        without_body = true;
    }
    c->head_len = (size_t)n;
    c->sent = 0;
    if (without_body) {
        free(body);
        body = NULL;
        len = 0;
    }
    c->body = body;
    c->body_len = len;
    c->server->queued += len;
    c->state = HTTP_WRITING;
    set_timer(c, HTTP_ANSWER_TIME);
}

/* For what never became a request. */
static void refuse(struct http_connection *c, int status)
{
    struct http_answer a = {.status = status};
    size_t size = strlen(status_text(status)) + 2;
    char *body = malloc(size);

    if (body)
        snprintf(body, size, "%s\n", status_text(status));
    c->last = true;
    c->in_len = 0;
    queue(c, &a, false, body, body ? size - 1 : 0, false);
}

void http_respond(struct http_request *request, const struct http_answer *answer, char *body, size_t len)
{
    struct http_connection *c = request->connection;
    struct http_answer a = *answer;
    bool is_head, gzip = false;
    size_t smaller_len;
    char *smaller;

    if (!c) {
        free(body);
        free(request);
        return;
    }
    is_head = http_method_is(request, "HEAD");
    if (c->server->queued && c->server->queued + len > QUEUED_MAX) {
        free(body);
        body = NULL;
        len = 0;
        a = (struct http_answer){.status = 503};
    }
    if (a.compress && len >= COMPRESS_FROM &&
        http_accepts_gzip(http_head_find(&request->head, "accept-encoding")) &&
        http_gzip(body, len, &smaller, &smaller_len) == 0) {
        free(body);
        body = smaller;
        len = smaller_len;
        gzip = true;
    }
    c->request = NULL;
    free(request);
    queue(c, &a, is_head, body, len, gzip);
    if (!c->busy)
        go(c);
}

void http_respond_body(struct http_request *request, const struct http_answer *answer, struct http_body *body)
{
    struct http_connection *c = request->connection;
    bool gzip, is_head;

    if (!c) {
        free(request);
        return;
    }
    if (!body->server && c->server->queued &&
        c->server->queued + body->text_len + body->gzip_len > QUEUED_MAX) {
        http_respond(request, &(struct http_answer){.status = 503}, NULL, 0);
        return;
    }
    is_head = http_method_is(request, "HEAD");
    gzip = answer->compress && body->gzip && http_request_accepts_gzip(request);
    c->request = NULL;
    free(request);
    queue(c, answer, is_head, NULL, gzip ? body->gzip_len : body->text_len, gzip);
    c->server->queued -= c->body_len; /* the shared one is counted, once */
    c->body_len = 0;
    if (c->head && !is_head) {
        if (!body->server) {
            body->server = c->server;
            body->server->queued += body->text_len + body->gzip_len;
        }
        body->references++;
        c->shared = body;
        c->body = gzip ? body->gzip : body->text;
        c->body_len = gzip ? body->gzip_len : body->text_len;
    }
    if (!c->busy)
        go(c);
}

void http_respond_text(struct http_request *request, int status, const char *text)
{
    struct http_answer answer = {.status = status};
    char *body = strdup(text);

    http_respond(request, &answer, body, body ? strlen(body) : 0);
}

void http_respond_source(struct http_request *request, const struct http_answer *answer,
                         const struct http_source *source)
{
    struct http_connection *c = request->connection;
    bool gzip = answer->compress && http_request_accepts_gzip(request), is_head;
    struct http_pieces *pieces;

    if (!c) {
        source->done(source->data);
        free(request);
        return;
    }
    is_head = http_method_is(request, "HEAD");
    /* who speaks HTTP/1.0 knows the end by the connection's */
    c->chunked = !request->head.old;
    if (http_pieces_new(source, c->chunked, gzip, &pieces) < 0) {
        http_respond_text(request, 503, "out of memory\n");
        return;
    }
    c->request = NULL;
    free(request);
    c->last |= !c->chunked;
    c->pieces = pieces;
    queue(c, answer, is_head, NULL, 0, gzip);
    if (is_head || !c->head)
        http_pieces_free(&c->pieces);
    if (!c->busy)
        go(c);
}

/* The place of the piece that is out is taken by the next one. 1: there is none; 0: later; -errno */
static int next_piece(struct http_connection *c)
{
    int r;

    c->server->queued -= c->body_len;
    free(c->body);
    c->body = NULL;
    c->head_len = c->body_len = c->sent = 0;
    r = http_pieces_next(c->pieces, &c->body, &c->body_len);
    c->server->queued += c->body_len;
    if (r == 0)
        http_pieces_free(&c->pieces);
    return r < 0 ? r : 0;
}

/* 1: all of it is out; 0: the client does not take more now, or it is others' turn; -errno */
static int send_answer(struct http_connection *c)
{
    while (c->sent < c->head_len + c->body_len) {
        size_t in_body = c->sent > c->head_len ? c->sent - c->head_len : 0;
        struct iovec parts[2] = {
            {c->head + (c->sent - in_body), c->head_len - (c->sent - in_body)},
            {c->body + in_body, c->body_len - in_body},
        };
        struct msghdr message = {.msg_iov = c->sent < c->head_len ? parts : parts + 1,
                                 .msg_iovlen = c->sent < c->head_len ? 2 : 1};
        ssize_t n = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        c->sent += (size_t)n;
    }
    return c->pieces ? next_piece(c) : 1;
}

/* ---- requests ---- */

static void consume(struct http_connection *c, size_t len)
{
    memmove(c->in, c->in + len, c->in_len - len);
    c->in_len -= len;
}

/* The head's own copy: the buffer is needed for what follows. */
static struct http_request *request_new(struct http_connection *c, size_t len)
{
    struct http_request *request = malloc(sizeof(*request) + len);
    int status;

    if (!request)
        return NULL;
    memcpy(request->text, c->in, len);
    request->connection = c;
    if (http_parse(request->text, len, &request->head, &status) <= 0) {
        free(request);
        return NULL;
    }
    return request;
}

/* True if there is something to go on with. */
static bool read_head(struct http_connection *c)
{
    struct http_head head;
    int status, n = http_parse(c->in, c->in_len, &head, &status);

    if (n == 0) {
        if (c->in_len && !c->started) {
            c->started = true;
            set_timer(c, HTTP_HEAD_TIME);
        }
        return false;
    }
    if (n > 0 && head.content_length > HTTP_BODY_MAX) {
        n = -EBADMSG;
        status = 413;
    }
    if (n < 0) {
        refuse(c, status);
        return true;
    }
    c->request = request_new(c, (size_t)n);
    if (!c->request) {
        refuse(c, 503);
        return true;
    }
    consume(c, (size_t)n);
    c->last = !head.keep_alive;
    c->body_left = head.content_length;
    if (head.expects_continue && c->body_left) {
        /* The answer comes at once; whether the body follows is open, so this is the last one here. */
        c->last = true;
        c->body_left = 0;
        c->in_len = 0;
    }
    c->state = HTTP_BODY;
    set_timer(c, HTTP_HEAD_TIME);
    return true;
}

static bool skip_body(struct http_connection *c)
{
    size_t n = c->body_left < c->in_len ? (size_t)c->body_left : c->in_len;

    consume(c, n);
    c->body_left -= n;
    if (c->body_left)
        return false;
    c->state = HTTP_HANDLING;
    set_timer(c, HTTP_ANSWER_TIME);
    c->server->fn(c->server->data, c->request);
    return true;
}

/* True if the next request can be looked at. */
static bool write_answer(struct http_connection *c, bool *ret_gone)
{
    int r = send_answer(c);

    if (r == 0)
        return false;
    if (r < 0) {
        http_connection_close(c);
        *ret_gone = true;
        return false;
    }
    if (c->last) {
        linger(c);
        *ret_gone = true; /* or as good as that */
        return false;
    }
    drop_answer(c);
    c->state = HTTP_READING;
    c->started = false;
    set_timer(c, HTTP_IDLE_TIME);
    crowd_refresh(&c->server->crowd, &c->member);
    return true;
}

static uint32_t events_of(const struct http_connection *c)
{
    switch (c->state) {
    case HTTP_READING:
    case HTTP_BODY:
    case HTTP_LINGERING:
        return EPOLLIN | EPOLLRDHUP;
    case HTTP_WRITING:
        return EPOLLOUT;
    default:
        return 0;
    }
}

/* Does what can be done without waiting. */
static void go(struct http_connection *c)
{
    bool more = true, gone = false;
    int answered = 0;

    c->busy = true;
    while (more && !gone && !c->closed) {
        switch (c->state) {
        case HTTP_READING:
            if (answered == REQUESTS_PER_TURN && c->in_len) {
                c->resume = true;
                set_timer(c, 1);
                c->busy = false;
                watch_for(c, 0);
                return;
            }
            more = read_head(c);
            break;
        case HTTP_BODY:
            more = skip_body(c);
            break;
        case HTTP_WRITING:
            more = write_answer(c, &gone);
            answered++;
            break;
        default:
            more = false;
        }
    }
    c->busy = false;
    /* The handler may have closed the whole server. */
    if (gone || c->closed)
        return;
    watch_for(c, events_of(c));
}

/* 1: bytes came; 0: nothing now; -errno, and -ECONNRESET at the end of the client's side */
static int receive(struct http_connection *c)
{
    char scratch[4096];
    /* Bytes of a body need not fit the buffer, nor must those of somebody who talks after the end. */
    bool away = c->state == HTTP_LINGERING || c->in_len == sizeof(c->in);
    ssize_t n = away ? recv(c->fd, scratch, sizeof(scratch), MSG_DONTWAIT)
                     : recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -ECONNRESET;
    if (!away)
        c->in_len += (size_t)n;
    return 1;
}

static void on_event(struct loop_watch *watch, uint32_t events)
{
    struct http_connection *c = container_of(watch, struct http_connection, watch);
    int r;

    if (c->state == HTTP_WRITING) {
        go(c);
        return;
    }
    if (c->state == HTTP_HANDLING || c->resume) {
        /* Not asked for: an error or a hang-up. */
        if (events & (EPOLLERR | EPOLLHUP))
            http_connection_close(c);
        return;
    }
    r = receive(c);
    if (r < 0)
        http_connection_close(c);
    else if (r > 0 && c->state != HTTP_LINGERING)
        go(c);
}

int http_connection_new(struct http_server *server, int fd, const struct peer_source *source)
{
    struct http_connection *c = malloc(sizeof(*c));
    int one = 1, r;

    if (!c) {
        close(fd);
        return -ENOMEM;
    }
    memset(c, 0, sizeof(*c));
    c->server = server;
    c->fd = fd;
    c->started = true; /* a new client owes us a request */
    loop_timer_init(&c->timer, on_time);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
               sizeof(one)); /* fails for Unix sockets, which need it not */
    r = loop_watch_add(server->loop, &c->watch, fd, EPOLLIN | EPOLLRDHUP, on_event);
    if (r < 0) {
        close(fd);
        free(c);
        return r;
    }
    c->member.source = *source;
    crowd_add(&server->crowd, &c->member);
    set_timer(c, HTTP_HEAD_TIME);
    return 0;
}
