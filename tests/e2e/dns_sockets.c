/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One way of asking DNS servers by UDP, by plain system calls, and what the socket says of it: each answer's
 * query, the server that it came from, the own address that it came to, its code. Servers and own addresses
 * are told by number, so that the words are the same in every pod.
 *
 *   dns_sockets WAY NAME OWN SERVER SERVER
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PORT     53
#define SERVERS  2
#define PATIENCE 3000 /* milliseconds for an answer */
#define SILENCE  400  /* milliseconds, after which there is none */

static struct sockaddr_storage servers[SERVERS], own;
static socklen_t len;
static const char *name;

static _Noreturn void stop(const char *step)
{
    printf("%s: %s\n", step, strerrorname_np(errno));
    exit(0);
}

static void parse(const char *text, int port, struct sockaddr_storage *ret)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;

    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        len = sizeof(*v6);
    } else if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        len = sizeof(*v4);
    } else {
        exit(2);
    }
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    return !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr,
                   16);
}

static const char *who(const struct sockaddr_storage *sa)
{
    uint16_t port = ntohs(((const struct sockaddr_in *)sa)->sin_port); /* at one place in both */

    for (int i = 0; i < SERVERS; i++) {
        if (same_address(sa, &servers[i]))
            return port == PORT ? i ? "second" : "first" : "another port";
    }
    return same_address(sa, &own) ? "own" : "another";
}

static size_t question(uint8_t *buf, uint16_t id, uint16_t type)
{
    uint8_t *p = buf;
    char copy[256], *rest;

    memcpy(p, (uint8_t[]){(uint8_t)(id >> 8), (uint8_t)id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 12);
    p += 12;
    snprintf(copy, sizeof(copy), "%s", name);
    for (char *label = strtok_r(copy, ".", &rest); label; label = strtok_r(NULL, ".", &rest)) {
        *p++ = (uint8_t)strlen(label);
        p = mempcpy(p, label, strlen(label));
    }
    memcpy(p, (uint8_t[]){0, (uint8_t)(type >> 8), (uint8_t)type, 0, 1}, 5);
    return (size_t)(p + 5 - buf);
}

static int open_socket(void)
{
    int fd = socket(own.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1;

    if (fd < 0 ||
        (own.ss_family == AF_INET ? setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on))
                                  : setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on))) < 0)
        stop("socket");
    return fd;
}

static void ask(int fd, int server, uint16_t id, uint16_t type)
{
    uint8_t buf[512];
    size_t n = question(buf, id, type);

    if (sendto(fd, buf, n, 0, server < 0 ? NULL : (struct sockaddr *)&servers[server],
               server < 0 ? 0 : len) != (ssize_t)n)
        stop("send");
}

static const char *came_to(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        struct sockaddr_storage at = {.ss_family = own.ss_family};
        struct in6_pktinfo info6;
        struct in_pktinfo info4;

        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            memcpy(&info4, CMSG_DATA(c), sizeof(info4));
            ((struct sockaddr_in *)&at)->sin_addr = info4.ipi_addr;
            return who(&at);
        }
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            memcpy(&info6, CMSG_DATA(c), sizeof(info6));
            ((struct sockaddr_in6 *)&at)->sin6_addr = info6.ipi6_addr;
            return who(&at);
        }
    }
    return "nobody knows";
}

static bool hears(int fd, int milliseconds)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, milliseconds) == 1;
}

/* Of count answers, by query: those of several servers come in any order. */
static void answers(int fd, int count)
{
    char lines[8][128] = {};

    for (int i = 0; i < count; i++) {
        union {
            struct cmsghdr header;
            char bytes[256];
        } control;
        uint8_t buf[4096];
        struct iovec iov = {buf, sizeof(buf)};
        struct sockaddr_storage from = {};
        struct msghdr m = {.msg_name = &from,
                           .msg_namelen = sizeof(from),
                           .msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = &control,
                           .msg_controllen = sizeof(control)};
        ssize_t n, peeked;

        if (!hears(fd, PATIENCE))
            stop("no answer");
        peeked = recv(fd, buf, sizeof(buf), MSG_PEEK | MSG_TRUNC);
        n = recvmsg(fd, &m, 0);
        if (n < 12 || n != peeked)
            stop("recvmsg");
        snprintf(lines[buf[1] & 7], sizeof(lines[0]), "query %d: from %s to %s, code %d, %d records\n",
                 buf[1], who(&from), came_to(&m), buf[3] & 15, buf[7]);
    }
    for (size_t i = 0; i < 8; i++)
        fputs(lines[i], stdout);
    if (hears(fd, 0))
        puts("and more");
}

static void names(int fd)
{
    struct sockaddr_storage peer = {}, local = {};
    socklen_t n = sizeof(peer);

    if (getpeername(fd, (struct sockaddr *)&peer, &n) < 0)
        printf("peer: %s\n", strerrorname_np(errno));
    else
        printf("peer: %s, %d bytes\n", who(&peer), (int)n);
    n = sizeof(local);
    if (getsockname(fd, (struct sockaddr *)&local, &n) == 0)
        printf("local: %s\n", who(&local));
}

/* ---- ways ---- */

static void way_connect(int fd)
{
    if (connect(fd, (struct sockaddr *)&servers[0], len) < 0)
        stop("connect");
    names(fd);
    ask(fd, -1, 1, 1);
    answers(fd, 1);
    names(fd);
    /* to another server, and to nobody */
    if (connect(fd, (struct sockaddr *)&servers[1], len) < 0)
        stop("connect");
    ask(fd, -1, 2, 1);
    answers(fd, 1);
    names(fd);
    if (connect(fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr)) < 0)
        stop("disconnect");
    ask(fd, 0, 3, 1);
    answers(fd, 1);
    names(fd);
}

static void way_write(int fd)
{
    uint8_t buf[4096];
    size_t n = question(buf, 1, 1);
    ssize_t got;

    if (connect(fd, (struct sockaddr *)&servers[0], len) < 0 || write(fd, buf, n) != (ssize_t)n ||
        !hears(fd, PATIENCE))
        stop("write");
    got = read(fd, buf, sizeof(buf));
    printf("query %d: code %d, %d records, %s\n", buf[1], buf[3] & 15, buf[7], got > 12 ? "read" : "short");
    names(fd);
}

/* Of one call, A and AAAA to each of both servers. */
static void way_sendmmsg(int fd)
{
    uint8_t questions[4][512];
    struct mmsghdr m[4] = {};
    struct iovec iov[4];

    for (int i = 0; i < 4; i++) {
        iov[i] = (struct iovec){questions[i], question(questions[i], (uint16_t)(i + 1), i % 2 ? 28 : 1)};
        m[i].msg_hdr = (struct msghdr){
            .msg_name = &servers[i / 2], .msg_namelen = len, .msg_iov = &iov[i], .msg_iovlen = 1};
    }
    if (sendmmsg(fd, m, 4, 0) != 4)
        stop("sendmmsg");
    answers(fd, 4);
    names(fd);
}

static void way_recvmmsg(int fd)
{
    uint8_t buf[2][512];
    struct iovec iov[2] = {{buf[0], sizeof(buf[0])}, {buf[1], sizeof(buf[1])}};
    struct sockaddr_storage from[2];
    struct mmsghdr m[2] = {};
    int n = 0;

    if (connect(fd, (struct sockaddr *)&servers[1], len) < 0)
        stop("connect");
    ask(fd, -1, 1, 1);
    ask(fd, -1, 2, 28);
    for (int i = 0; i < 2; i++)
        m[i].msg_hdr = (struct msghdr){
            .msg_name = &from[i], .msg_namelen = sizeof(from[i]), .msg_iov = &iov[i], .msg_iovlen = 1};
    while (n < 2) {
        int r = hears(fd, PATIENCE) ? recvmmsg(fd, m + n, (unsigned)(2 - n), MSG_DONTWAIT, NULL) : -1;

        if (r <= 0)
            stop("recvmmsg");
        n += r;
    }
    for (int id = 1; id <= 2; id++) {
        int i = buf[0][1] == id ? 0 : 1;

        printf("query %d: from %s, code %d, %d records\n", buf[i][1], who(&from[i]), buf[i][3] & 15,
               buf[i][7]);
    }
}

/* A connected socket may send to another address, and hears its own peer alone. */
static void way_elsewhere(int fd)
{
    if (connect(fd, (struct sockaddr *)&servers[0], len) < 0)
        stop("connect");
    ask(fd, 1, 1, 1);
    puts(hears(fd, SILENCE) ? "an answer" : "no answer");
    ask(fd, -1, 2, 1);
    answers(fd, 1);
    names(fd);
}

/* Bound to an address, without a destination, and with one for each message. */
static void way_bind(int fd)
{
    struct sockaddr_storage at = own;

    if (bind(fd, (struct sockaddr *)&at, len) < 0)
        stop("bind");
    names(fd);
    ask(fd, 0, 1, 1);
    ask(fd, 1, 2, 28);
    answers(fd, 2);
    names(fd);
}

/* The source address of a message, and an empty one behind it. */
static void way_pktinfo(int fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } control = {};
    struct in6_pktinfo info6 = {};
    struct in_pktinfo info4 = {};
    bool v4 = own.ss_family == AF_INET;
    size_t size = v4 ? sizeof(info4) : sizeof(info6);
    uint8_t buf[512];
    struct iovec iov[2] = {{buf, 5}, {buf + 5, question(buf, 1, 1) - 5}};
    struct msghdr m = {.msg_name = &servers[0],
                       .msg_namelen = len,
                       .msg_iov = iov,
                       .msg_iovlen = 2,
                       .msg_control = &control,
                       .msg_controllen = CMSG_SPACE(size)};

    info4.ipi_spec_dst = ((struct sockaddr_in *)&own)->sin_addr;
    info6.ipi6_addr = ((struct sockaddr_in6 *)&own)->sin6_addr;
    control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(size),
                                      .cmsg_level = v4 ? IPPROTO_IP : IPPROTO_IPV6,
                                      .cmsg_type = v4 ? IP_PKTINFO : IPV6_PKTINFO};
    memcpy(CMSG_DATA(&control.header), v4 ? (void *)&info4 : (void *)&info6, size);
    if (sendmsg(fd, &m, 0) < 0)
        stop("sendmsg");
    answers(fd, 1);
}

static const struct {
    const char *word;
    void (*run)(int fd);
} ways[] = {
    {"connect", way_connect},   {"write", way_write},         {"sendmmsg", way_sendmmsg},
    {"recvmmsg", way_recvmmsg}, {"elsewhere", way_elsewhere}, {"bind", way_bind},
    {"pktinfo", way_pktinfo},
};

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    name = argv[2];
    parse(argv[3], 0, &own);
    for (int i = 0; i < SERVERS; i++)
        parse(argv[4 + i], PORT, &servers[i]);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (!strcmp(ways[i].word, argv[1])) {
            ways[i].run(open_socket());
            return 0;
        }
    }
    return 2;
}
