/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The application at the far end: one thread, epoll.
 *   bench-server -w PORT   HTTP/1.1 keep-alive; every request gets a body of 1 KiB
 *   bench-server -e PORT   echo by blocks: 1 KiB back for each 1 KiB received
 * Both may be given. Ends with a signal.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/tools/measure.h"

#define BLOCK 1024

/* What a kind of listener answers, again and again. */
struct service {
    int listener;
    bool http;
    char answer[BLOCK + 256];
    size_t answer_len;
};

struct client {
    int fd;
    const struct service *service;
    size_t received;    /* echo: bytes of a block that is not complete */
    unsigned line_ends; /* http: how much of the empty line was seen */
    size_t unsent;      /* bytes of answers, of which the first may have begun */
};

static int epoll;

static void service_open(struct service *s, int port)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    int one = 1;

    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->listener < 0)
        fail("socket");
    setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(s->listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* accepted sockets inherit it */
    if (bind(s->listener, (struct sockaddr *)&any, sizeof(any)) < 0)
        fail("bind");
    if (listen(s->listener, 4096) < 0)
        fail("listen");
    epoll_ctl(epoll, EPOLL_CTL_ADD, s->listener, &event);
}

static void accept_clients(const struct service *s)
{
    for (int i = 0; i < 64; i++) {
        struct client *c;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
        int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0)
            return;
        c = calloc(1, sizeof(*c));
        if (!c)
            fail("client");
        c->fd = fd;
        c->service = s;
        event.data.ptr = c;
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

/* Each "\r\n\r\n" ends a request: these clients send no bodies. */
static void count_requests(struct client *c, const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char next = c->line_ends % 2 ? '\n' : '\r';

        if (data[i] == next)
            c->line_ends++;
        else
            c->line_ends = data[i] == '\r';
        if (c->line_ends == 4) {
            c->line_ends = 0;
            c->unsent += c->service->answer_len;
        }
    }
}

static void count_blocks(struct client *c, size_t len)
{
    c->received += len;
    c->unsent += c->received / BLOCK * BLOCK;
    c->received %= BLOCK;
}

/* False if the connection is lost. */
static bool send_answers(struct client *c)
{
    size_t whole = c->service->answer_len;

    while (c->unsent) {
        size_t rest = c->unsent % whole, from = rest ? whole - rest : 0;
        ssize_t n = send(c->fd, c->service->answer + from, whole - from, MSG_NOSIGNAL);

        if (n < 0)
            return errno == EAGAIN;
        c->unsent -= (size_t)n;
    }
    return true;
}

/* False if the connection is over. */
static bool serve(struct client *c, uint32_t events)
{
    static char buffer[65536];

    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof(buffer), 0);

        if (n == 0 || (n < 0 && errno != EAGAIN))
            return false;
        if (n < 0)
            break;
        if (c->service->http)
            count_requests(c, buffer, (size_t)n);
        else
            count_blocks(c, (size_t)n);
        if (!send_answers(c))
            return false;
        if ((size_t)n < sizeof(buffer))
            break;
    }
    if (!send_answers(c) || events & (EPOLLHUP | EPOLLERR))
        return false;
    return !(events & EPOLLRDHUP) || c->unsent;
}

int main(int argc, char **argv)
{
    static struct service http = {.http = true}, echo = {.answer_len = BLOCK};
    int option, head;

    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    head = snprintf(
        http.answer, sizeof(http.answer),
        "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", BLOCK);
    memset(http.answer + head, 'x', BLOCK);
    http.answer_len = (size_t)head + BLOCK;
    memset(echo.answer, 'e', BLOCK);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    while ((option = getopt(argc, argv, "w:e:")) != -1) {
        if (option == '?')
            return 2;
        service_open(option == 'w' ? &http : &echo, (int)number_of((char)option, optarg, 1, 65535));
    }
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, -1);

        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;

            if (events[i].data.ptr == &http || events[i].data.ptr == &echo) {
                accept_clients(events[i].data.ptr);
            } else if (!serve(c, events[i].events)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
