/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens connections at a given rate and closes each as soon as it is open, to outside the mesh, to workloads
 * that come and go, and to workloads that are always there: one, one and four of six. One thread, so that the
 * programs under test have the machine.
 *
 *   churn_client OUTSIDE WORKLOADS TURNING RATE
 *
 * Says READY, and goes on until a line comes in; then how many of each kind were opened or refused by the
 * other side, how many were not (nobody has answered for two seconds, or the kernel has refused), and in how
 * many milliseconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT              8080
#define STAYING_FIRST     0x0B000000u /* 11.0.0.0 */
#define TURNING_FIRST     0x0B800000u /* 11.128.0.0 */
#define LIVE_MAX          512
#define PATIENCE          2000000000ull
#define TICK_MILLISECONDS 5

enum kind { OUTSIDE, TURNING, STAYING, NEITHER, KINDS };

/* Those that are not open yet, the oldest first; fd -1: it is over. */
struct attempt {
    int fd;
    enum kind kind;
    uint64_t begun;
};

static struct attempt ring[LIVE_MAX];
static unsigned first, len;
static unsigned long counts[KINDS];
static int epoll;

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void end(struct attempt *a, enum kind count_as)
{
    close(a->fd);
    a->fd = -1;
    counts[count_as]++;
}

/* Room in the ring, if there is any. */
static void forget_ended(uint64_t time)
{
    while (len && (ring[first].fd < 0 || time - ring[first].begun >= PATIENCE)) {
        if (ring[first].fd >= 0)
            end(&ring[first], NEITHER);
        first = (first + 1) % LIVE_MAX;
        len--;
    }
}

static void dial(uint32_t to, enum kind kind, uint64_t time)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(to)};
    unsigned at = (first + len) % LIVE_MAX;
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = at};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    if (fd < 0)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno != EINPROGRESS) {
        close(fd);
        counts[NEITHER]++;
        return;
    }
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
    ring[at] = (struct attempt){fd, kind, time};
    len++;
}

static void collect(int milliseconds)
{
    struct epoll_event events[LIVE_MAX];
    int n = epoll_wait(epoll, events, LIVE_MAX, milliseconds);

    for (int i = 0; i < n; i++)
        end(&ring[events[i].data.u32], ring[events[i].data.u32].kind);
}

static bool told_to_end(void)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};

    return poll(&in, 1, 0) != 0;
}

int main(int argc, char **argv)
{
    static const enum kind kinds[] = {OUTSIDE, STAYING, STAYING, TURNING, STAYING, STAYING};
    uint64_t n = 0, begun, time;
    uint32_t outside, workloads, turning, to;
    double rate;
    struct in_addr in;

    if (argc != 5 || inet_pton(AF_INET, argv[1], &in) != 1)
        return 2;
    outside = ntohl(in.s_addr);
    workloads = (uint32_t)atoi(argv[2]);
    turning = (uint32_t)atoi(argv[3]);
    rate = atof(argv[4]);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || !workloads || !turning)
        return 2;
    srandom(7);
    puts("READY");
    fflush(stdout);
    begun = now();
    while (!told_to_end()) {
        time = now();
        forget_ended(time);
        while (len < LIVE_MAX && (double)n < rate * (double)(time - begun) / 1e9) {
            enum kind kind = kinds[n++ % (sizeof(kinds) / sizeof(kinds[0]))];

            to = kind == OUTSIDE   ? outside
                 : kind == TURNING ? TURNING_FIRST + (uint32_t)random() % turning
                                   : STAYING_FIRST + (uint32_t)random() % workloads;
            dial(to, kind, time);
        }
        collect(TICK_MILLISECONDS);
    }
    printf("COUNTS %lu %lu %lu %lu %lu\n", counts[OUTSIDE], counts[TURNING], counts[STAYING], counts[NEITHER],
           (unsigned long)((now() - begun) / 1000000));
    return 0;
}
