/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One way of making a TCP connection, or of changing where it goes, by plain system calls: what Python has no
 * words for. Says "refused ERRNO" of the step that was refused, or what came back.
 *
 *   socket_ways WAY TO PORT WORD [VIA]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/in6.h>
#include <linux/io_uring.h>
#include <linux/ipv6.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define MSG_FASTOPEN_        0x20000000
#define TCP_FASTOPEN_CONNECT 30
#define IPV6_2292RTHDR_      5
#define IPV6_2292PKTOPTIONS_ 6
#define URING_CMD_SETSOCKOPT 3

static struct sockaddr_storage to;
static socklen_t to_len;
static const char *word;

static _Noreturn void refused(const char *step)
{
    printf("refused %s %s\n", step, strerrorname_np(errno));
    exit(0);
}

static void parse(const char *text, int port, struct sockaddr_storage *ret, socklen_t *len)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;

    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *len = sizeof(*v6);
    } else if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *len = sizeof(*v4);
    } else {
        exit(2);
    }
}

static int tcp(int type, int protocol)
{
    struct timeval limit = {.tv_sec = 3};
    int fd = socket(to.ss_family, type, protocol);

    if (fd < 0)
        refused("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    return fd;
}

static void option(int fd, int level, int name, const void *value, socklen_t len)
{
    if (setsockopt(fd, level, name, value, len) < 0)
        refused("option");
}

/* Types 2 and 4 (of one segment), both of 24 bytes: the packet goes to VIA first. */
static void routing_header(uint8_t type, const char *via, uint8_t ret[24])
{
    memset(ret, 0, 24);
    ret[1] = 2;
    ret[2] = type;
    ret[3] = type == 2 ? 1 : 0;
    inet_pton(AF_INET6, via, ret + 8);
}

static void source_route(uint8_t type, const char *via, uint8_t ret[8])
{
    memset(ret, 1, 8);
    ret[1] = type;
    ret[2] = 7;
    ret[3] = 4;
    inet_pton(AF_INET, via, ret + 4);
}

static void echo(int fd)
{
    char got[256];
    ssize_t n;

    if (send(fd, word, strlen(word), MSG_NOSIGNAL) < 0)
        refused("send");
    n = recv(fd, got, sizeof(got), 0);
    if (n < 0)
        refused("receive");
    printf("%.*s\n", (int)n, got);
}

static void go(int fd)
{
    if (connect(fd, (struct sockaddr *)&to, to_len) < 0)
        refused("connect");
    echo(fd);
}

/* ---- io_uring: one operation at a time ---- */

static int uring(struct io_uring_sqe *want)
{
    struct io_uring_params p = {};
    int fd = (int)syscall(__NR_io_uring_setup, 4, &p), result;
    uint8_t *sq, *cq;
    struct io_uring_sqe *sqes;

    if (fd < 0)
        refused("io_uring");
    sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
              IORING_OFF_SQ_RING);
    cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE,
              MAP_SHARED, fd, IORING_OFF_CQ_RING);
    sqes = mmap(NULL, p.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED)
        refused("io_uring");
    sqes[0] = *want;
    ((uint32_t *)(void *)(sq + p.sq_off.array))[0] = 0;
    __atomic_store_n((uint32_t *)(void *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
    if (syscall(__NR_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        refused("io_uring");
    result = ((struct io_uring_cqe *)(void *)(cq + p.cq_off.cqes))[0].res;
    close(fd);
    return result;
}

static void by_uring(int fd)
{
    struct io_uring_sqe e = {.opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uintptr_t)&to, .off = to_len};
    int r = uring(&e);

    if (r < 0) {
        errno = -r;
        refused("connect");
    }
    echo(fd);
}

static void option_by_uring(int fd, int level, int name, void *value, int len)
{
    struct io_uring_sqe e = {.opcode = IORING_OP_URING_CMD, .fd = fd};
    int32_t words[2] = {level, name};
    uint64_t where = (uintptr_t)value;
    int r;

    /* named as in the kernel's header since 6.7: cmd_op, level, optname, optlen, optval */
    e.off = URING_CMD_SETSOCKOPT;
    memcpy(&e.addr, words, sizeof(words));
    memcpy((uint8_t *)&e + 44, &len, sizeof(len));
    memcpy((uint8_t *)&e + 48, &where, sizeof(where));
    r = uring(&e);
    if (r < 0) {
        errno = -r;
        refused("option");
    }
}

/* ---- the ways ---- */

/* Which options give a packet's way: before the connection, or when it lives ("later-"). */
static void with_option(const char *way, const char *via)
{
    int fd = tcp(SOCK_STREAM, 0);
    uint8_t header[24], old[8];
    bool later = !strncmp(way, "later-", 6);
    struct {
        struct cmsghdr h;
        uint8_t data[24];
    } control = {
        .h = {.cmsg_len = sizeof(control), .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_2292RTHDR_}};

    if (later) {
        way += 6;
        if (connect(fd, (struct sockaddr *)&to, to_len) < 0)
            refused("connect");
    }
    if (!strcmp(way, "rthdr2") || !strcmp(way, "rthdr4") || !strcmp(way, "uring-rthdr4")) {
        routing_header(!strcmp(way, "rthdr2") ? 2 : 4, via, header);
        if (*way == 'u')
            option_by_uring(fd, IPPROTO_IPV6, IPV6_RTHDR, header, sizeof(header));
        else
            option(fd, IPPROTO_IPV6, IPV6_RTHDR, header, sizeof(header));
    } else if (!strcmp(way, "old-rthdr2")) {
        routing_header(2, via, header);
        option(fd, IPPROTO_IPV6, IPV6_2292RTHDR_, header, sizeof(header));
    } else if (!strcmp(way, "pktoptions")) {
        routing_header(2, via, control.data);
        option(fd, IPPROTO_IPV6, IPV6_2292PKTOPTIONS_, &control, sizeof(control));
    } else if (!strcmp(way, "lsrr") || !strcmp(way, "ssrr")) {
        source_route(!strcmp(way, "lsrr") ? 131 : 137, via, old);
        option(fd, IPPROTO_IP, IP_OPTIONS, old, sizeof(old));
    } else if (!strcmp(way, "pktinfo")) {
        struct in6_pktinfo info = {.ipi6_ifindex = 2};

        option(fd, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
    } else if (!strcmp(way, "nexthop")) {
        struct sockaddr_in6 hop = {.sin6_family = AF_INET6};

        inet_pton(AF_INET6, via, &hop.sin6_addr);
        option(fd, IPPROTO_IPV6, IPV6_NEXTHOP, &hop, sizeof(hop));
    } else if (!strcmp(way, "unicast-if")) {
        uint32_t index = htonl(2);

        option(fd, to.ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, to.ss_family == AF_INET6 ? 76 : 50,
               &index, sizeof(index));
    } else if (!strcmp(way, "dontroute")) {
        option(fd, SOL_SOCKET, SO_DONTROUTE, &(int){1}, sizeof(int));
    } else if (!strcmp(way, "flow-label")) {
        /* A label that is leased together with a routing header, and then sent with */
        struct {
            struct in6_flowlabel_req request;
            struct cmsghdr h;
            uint8_t data[24];
        } lease = {
            .request = {.flr_label = htonl(0x12345),
                        .flr_action = IPV6_FL_A_GET,
                        .flr_flags = IPV6_FL_F_CREATE,
                        .flr_share = IPV6_FL_S_EXCL},
            .h = {.cmsg_len = sizeof(lease.h) + 24, .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_RTHDR}};

        memcpy(&lease.request.flr_dst, &((struct sockaddr_in6 *)&to)->sin6_addr, 16);
        routing_header(2, via, lease.data);
        option(fd, IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, &lease, sizeof(lease));
        option(fd, IPPROTO_IPV6, IPV6_FLOWINFO_SEND, &(int){1}, sizeof(int));
        ((struct sockaddr_in6 *)&to)->sin6_flowinfo = htonl(0x12345);
    } else {
        exit(2);
    }
    if (later)
        echo(fd);
    else
        go(fd);
}

/* A routing header beside the data, which TCP does not look at. */
static void ancillary(const char *via)
{
    int fd = tcp(SOCK_STREAM, 0);
    struct {
        struct cmsghdr h;
        uint8_t data[24];
    } control = {.h = {.cmsg_len = sizeof(control), .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_RTHDR}};
    struct iovec data = {.iov_base = (void *)(uintptr_t)word, .iov_len = strlen(word)};
    struct msghdr m = {.msg_name = &to,
                       .msg_namelen = to_len,
                       .msg_iov = &data,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    char got[256];
    ssize_t n;

    routing_header(2, via, control.data);
    if (sendmsg(fd, &m, MSG_FASTOPEN_) < 0)
        refused("send");
    n = recv(fd, got, sizeof(got), 0);
    if (n < 0)
        refused("receive");
    printf("%.*s\n", (int)n, got);
}

int main(int argc, char **argv)
{
    const char *way = argc > 4 ? argv[1] : "", *via = argc > 5 ? argv[5] : "";

    if (argc < 5)
        return 2;
    parse(argv[2], atoi(argv[3]), &to, &to_len);
    word = argv[4];
    if (!strcmp(way, "uring")) {
        by_uring(tcp(SOCK_STREAM, 0));
    } else if (!strcmp(way, "mptcp")) {
        go(tcp(SOCK_STREAM, 262));
    } else if (!strcmp(way, "sctp")) {
        go(tcp(SOCK_STREAM, IPPROTO_SCTP));
    } else if (!strcmp(way, "smc")) {
        int fd = socket(43, SOCK_STREAM, to.ss_family == AF_INET6);

        if (fd < 0)
            refused("socket");
        go(fd);
    } else if (!strcmp(way, "dccp")) {
        go(tcp(6, 33));
    } else if (!strcmp(way, "fastopen-connect")) {
        int fd = tcp(SOCK_STREAM, 0);

        option(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &(int){1}, sizeof(int));
        go(fd);
    } else if (!strcmp(way, "ancillary")) {
        ancillary(via);
    } else {
        with_option(way, via);
    }
    return 0;
}
