/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor: the cheapest hop through a userspace process, with neither crypto nor policy. It runs in a pod's
 * network namespace under the stock iptables capture; its own sockets carry the mark that is not captured.
 *   bench-relay [-o PORT] [-i PORT] [-s]
 *     -o   captured outbound connections; dials their original destination
 *     -i   captured inbound connections; dials the application from the client's address
 *     -s   moves bytes by splice() through pipes instead of recv() and send()
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/tools/measure.h"

#define CHUNK           65536
#define PIPE            262144
#define SO_ORIGINAL_DST 80   /* of linux/netfilter_ipv4.h, which does not go with netinet/in.h */
#define MARK            1337 /* of the node proxy contract: not captured again */

/* Bytes from one socket to the other. */
struct flow {
    int from, to;
    bool ended, shut; /* read to the end; told the other side */
    char *left;       /* what could not be sent at once */
    size_t left_from, left_len;
    int pipe[2]; /* splice; 0 until it is needed */
    size_t in_pipe;
};

struct pair {
    bool inbound, listener, connected, dead;
    int a, b; /* the captured socket (or the listener), and the one that was dialed */
    struct flow flows[2];
    struct pair *next_dead;
};

static int epoll;
static bool use_splice;
static struct pair *dead;

static void end_pair(struct pair *p)
{
    if (p->dead)
        return;
    p->dead = true;
    close(p->a);
    close(p->b);
    for (int i = 0; i < 2; i++) {
        if (p->flows[i].pipe[1]) {
            close(p->flows[i].pipe[0]);
            close(p->flows[i].pipe[1]);
        }
    }
    /* Events of this turn may still name it. */
    p->next_dead = dead;
    dead = p;
}

static void free_dead(void)
{
    while (dead) {
        struct pair *p = dead;

        dead = p->next_dead;
        free(p->flows[0].left);
        free(p->flows[1].left);
        free(p);
    }
}

static void pass_end(struct flow *f)
{
    if (!f->shut) {
        f->shut = true;
        shutdown(f->to, SHUT_WR);
    }
}

/* Both movers: 0 when there is nothing more to do for now, -1 when the connection is lost. */
static int move_by_copy(struct flow *f)
{
    static char buffer[CHUNK];

    for (;;) {
        ssize_t got, sent;

        while (f->left_len) {
            sent = send(f->to, f->left + f->left_from, f->left_len, MSG_NOSIGNAL);
            if (sent < 0)
                return errno == EAGAIN ? 0 : -1;
            f->left_from += (size_t)sent;
            f->left_len -= (size_t)sent;
            if (!f->left_len) {
                free(f->left);
                f->left = NULL;
            }
        }
        if (f->ended) {
            pass_end(f);
            return 0;
        }
        got = recv(f->from, buffer, sizeof(buffer), 0);
        if (got < 0)
            return errno == EAGAIN ? 0 : -1;
        if (got == 0) {
            f->ended = true;
            continue;
        }
        sent = send(f->to, buffer, (size_t)got, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return -1;
        if (sent < 0)
            sent = 0;
        if (sent < got) {
            f->left_len = (size_t)(got - sent);
            f->left_from = 0;
            f->left = malloc(f->left_len);
            if (!f->left)
                fail("buffer");
            memcpy(f->left, buffer + sent, f->left_len);
        }
    }
}

static int move_by_splice(struct flow *f)
{
    if (!f->pipe[1]) {
        if (pipe2(f->pipe, O_NONBLOCK | O_CLOEXEC) < 0)
            return -1;
        fcntl(f->pipe[1], F_SETPIPE_SZ, PIPE);
    }
    for (;;) {
        ssize_t n;

        while (f->in_pipe) {
            n = splice(f->pipe[0], NULL, f->to, NULL, f->in_pipe, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (n < 0)
                return errno == EAGAIN ? 0 : -1;
            f->in_pipe -= (size_t)n;
        }
        if (f->ended) {
            pass_end(f);
            return 0;
        }
        n = splice(f->from, NULL, f->pipe[1], NULL, PIPE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        if (n == 0)
            f->ended = true;
        else
            f->in_pipe = (size_t)n;
    }
}

static void move(struct pair *p)
{
    for (int i = 0; i < 2; i++) {
        if ((use_splice ? move_by_splice : move_by_copy)(&p->flows[i]) < 0) {
            end_pair(p);
            return;
        }
    }
    if (p->flows[0].shut && p->flows[1].shut)
        end_pair(p);
}

static int marked_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), mark = MARK, one = 1;

    if (fd >= 0) {
        if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
            fail("SO_MARK");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    return fd;
}

static void open_listener(struct pair *p, int port, bool inbound)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
    int one = 1;

    p->a = marked_socket();
    p->listener = true;
    p->inbound = inbound;
    setsockopt(p->a, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(p->a, (struct sockaddr *)&any, sizeof(any)) < 0 || listen(p->a, 4096) < 0)
        fail("listener");
    epoll_ctl(epoll, EPOLL_CTL_ADD, p->a, &event);
}

/* Dials the original destination of an accepted socket. -1 if that cannot be done. */
static int dial(int accepted, struct sockaddr_in client, bool inbound)
{
    struct sockaddr_in destination;
    socklen_t size = sizeof(destination);
    int fd, one = 1;

    if (getsockopt(accepted, SOL_IP, SO_ORIGINAL_DST, &destination, &size) < 0)
        return -1;
    fd = marked_socket();
    if (fd < 0)
        return -1;
    if (inbound) {
        /*
         * Port 0, bound now. With IP_BIND_ADDRESS_NO_PORT the port would be chosen by connect(), which may
         * pick the very port of a captured connection; the conntrack entry of that one then answers, and this
         * one hangs.
         */
        client.sin_port = 0;
        setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof(one));
        if (bind(fd, (struct sockaddr *)&client, sizeof(client)) < 0) {
            close(fd);
            return -1;
        }
    }
    if (connect(fd, (struct sockaddr *)&destination, sizeof(destination)) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

static void take(const struct pair *listener)
{
    for (int i = 0; i < 64; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
        struct sockaddr_in client;
        socklen_t size = sizeof(client);
        int a = accept4(listener->a, (struct sockaddr *)&client, &size, SOCK_NONBLOCK | SOCK_CLOEXEC), b;
        struct pair *p;

        if (a < 0)
            return;
        b = dial(a, client, listener->inbound);
        if (b < 0) {
            close(a);
            continue;
        }
        p = calloc(1, sizeof(*p));
        if (!p)
            fail("pair");
        *p = (struct pair){.a = a, .b = b, .flows = {{.from = a, .to = b}, {.from = b, .to = a}}};
        event.data.ptr = p;
        epoll_ctl(epoll, EPOLL_CTL_ADD, b, &event);
        epoll_ctl(epoll, EPOLL_CTL_ADD, a, &event);
    }
}

/* True once the dialed socket is connected; ends the pair if it never will be. */
static bool is_connected(struct pair *p)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    int error = 0;
    socklen_t error_size = sizeof(error);

    if (p->connected)
        return true;
    getsockopt(p->b, SOL_SOCKET, SO_ERROR, &error, &error_size);
    if (error) {
        end_pair(p);
        return false;
    }
    if (getsockopt(p->b, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_state == TCP_SYN_SENT)
        return false;
    p->connected = true;
    return true;
}

int main(int argc, char **argv)
{
    static struct pair outbound, inbound;
    int option;

    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    while ((option = getopt(argc, argv, "o:i:s")) != -1) {
        if (option == 's')
            use_splice = true;
        else if (option == 'o' || option == 'i')
            open_listener(option == 'o' ? &outbound : &inbound,
                          (int)number_of((char)option, optarg, 1, 65535), option == 'i');
        else
            return 2;
    }
    puts("READY");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, -1);

        for (int i = 0; i < n; i++) {
            struct pair *p = events[i].data.ptr;

            if (p->listener)
                take(p);
            else if (!p->dead && is_connected(p))
                move(p);
        }
        free_dead();
    }
}
