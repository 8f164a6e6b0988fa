/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load on a server, from one thread with epoll. Prints START when the warm-up is over, then one line of JSON.
 *   bench-load -m http ...   GET over connections that are kept alive
 *   bench-load -m conn ...   connect, send 1 KiB, receive 1 KiB, close
 *   bench-load -m hold ...   open all connections with one exchange each, then keep them idle; at the end one
 * more exchange on each that still lives, and how many do and how many do not -a ADDRESS -p PORT -c
 * CONNECTIONS -d SECONDS [-r RATE] [-n MOST] Without a rate each connection goes on as soon as it has its
 * answer. With one, a request is due at a random moment of each 1/RATE slot, so that the load never locks to
 * the timer tick, and latency counts from when it was due.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/bench/tools/measure.h"

#define BLOCK           1024
#define WARM_UP_LIMIT   (60 * NANOSECONDS)
#define LATE_ANSWERS    (2 * NANOSECONDS) /* how long answers may come after the end */
#define OPENING_AT_ONCE 128
#define MOST_SECONDS    120

enum mode { MODE_HTTP, MODE_CONNECTIONS, MODE_HOLD };
enum state { CLOSED, CONNECTING, IDLE, BUSY };

struct connection {
    int fd; /* -1 while CLOSED */
    enum state state;
    uint64_t due; /* nanoseconds: latency counts from here */
    size_t sent, received;
    size_t expected; /* bytes of the answer; 0: its head has not come yet */
};

static struct {
    enum mode mode;
    struct sockaddr_in server;
    int connections;
    double rate, seconds;
    uint64_t most;
    char request[BLOCK];
    size_t request_len;
} plan = {.connections = 1, .seconds = 3, .most = UINT64_MAX};

static struct {
    struct histogram latency;
    uint64_t done, errors, issued;
} result;

static struct connection *connections;
/* A ring of free connections, first in first out, so that all of them take part. */
static int *ring, ring_head, ring_len;
static int epoll;
static int busy;         /* connections that wait for an answer or a connect */
static int warm_answers; /* exchanges of the warm-up that are done */
static bool warming;

static void release(struct connection *c)
{
    ring[(ring_head + ring_len++) % plan.connections] = (int)(c - connections);
}

static struct connection *take(void)
{
    struct connection *c = &connections[ring[ring_head]];

    ring_head = (ring_head + 1) % plan.connections;
    ring_len--;
    return c;
}

static void shut(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
}

static void lost(struct connection *c)
{
    result.errors++;
    if (c->state != IDLE) {
        busy--;
        release(c);
    }
    shut(c);
}

/* False if the connection is lost. */
static bool send_request(struct connection *c)
{
    while (c->sent < plan.request_len) {
        ssize_t n = send(c->fd, plan.request + c->sent, plan.request_len - c->sent, MSG_NOSIGNAL);

        if (n < 0)
            return errno == EAGAIN;
        c->sent += (size_t)n;
    }
    return true;
}

static bool open_connection(struct connection *c)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(c->fd, (struct sockaddr *)&plan.server, sizeof(plan.server)) < 0 && errno != EINPROGRESS)
        return false;
    c->state = CONNECTING;
    return epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) == 0;
}

static void issue(uint64_t due)
{
    struct connection *c = take();
    bool good;

    c->due = due;
    c->sent = c->received = 0;
    c->expected = plan.mode == MODE_HTTP ? 0 : BLOCK;
    busy++;
    result.issued++;
    if (c->state == CLOSED) {
        good = open_connection(c);
    } else {
        c->state = BUSY;
        good = send_request(c);
    }
    if (!good)
        lost(c);
}

/* The head comes in one piece from this bench's server. False if there is none. */
static bool read_head(struct connection *c, const char *data, size_t len)
{
    static const char name[] = "Content-Length:";
    const char *end = memmem(data, len, "\r\n\r\n", 4), *length = memmem(data, len, name, strlen(name));

    if (!end || !length)
        return false;
    c->expected = (size_t)(end + 4 - data) + strtoul(length + strlen(name), NULL, 10);
    return true;
}

static void answered(struct connection *c)
{
    histogram_add(&result.latency, clock_nanoseconds() - c->due);
    result.done++;
    busy--;
    if (warming)
        warm_answers++;
    if (plan.mode == MODE_CONNECTIONS)
        shut(c);
    else
        c->state = IDLE;
    release(c);
}

static void receive(struct connection *c)
{
    static char buffer[262144];

    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof(buffer), 0);

        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0 || (!c->expected && !read_head(c, buffer, (size_t)n))) {
            lost(c);
            return;
        }
        c->received += (size_t)n;
        if (c->received >= c->expected) {
            answered(c);
            return;
        }
    }
}

static void on_event(struct connection *c, uint32_t events)
{
    if (c->state == CONNECTING && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        int error = 0;
        socklen_t size = sizeof(error);

        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            lost(c);
            return;
        }
        c->state = BUSY;
    }
    if (c->state == BUSY && !send_request(c)) {
        lost(c);
        return;
    }
    if (c->state != CLOSED && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        receive(c);
}

static void wait_events(uint64_t nanoseconds)
{
    struct timespec limit = {(time_t)(nanoseconds / NANOSECONDS), (long)(nanoseconds % NANOSECONDS)};
    struct epoll_event events[256];
    int n = (int)syscall(SYS_epoll_pwait2, epoll, events, 256, &limit, NULL, 0);

    for (int i = 0; i < n; i++)
        on_event(events[i].data.ptr, events[i].events);
}

/* One exchange on each connection. */
static void warm_up(void)
{
    uint64_t limit = clock_nanoseconds() + WARM_UP_LIMIT;

    warming = true;
    while (warm_answers < plan.connections) {
        uint64_t now = clock_nanoseconds();

        if (now > limit || result.errors > (uint64_t)plan.connections) {
            fprintf(stderr, "bench-load: warm-up: %d of %d connections answered, %lu errors\n", warm_answers,
                    plan.connections, (unsigned long)result.errors);
            exit(1);
        }
        /* The ring's order brings closed ones (failed before) back to the front in time. */
        while (ring_len && busy < OPENING_AT_ONCE && warm_answers + busy < plan.connections)
            issue(now);
        wait_events(NANOSECONDS / 10);
    }
    warming = false;
    memset(&result, 0, sizeof(result));
}

/* xorshift; 0 to 1 */
static double random_fraction(void)
{
    static uint64_t x = 0x9e3779b97f4a7c15ull;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (double)(x >> 11) / 9007199254740992.0;
}

/* Issues what is due; returns the time until the next. */
static uint64_t issue_due(uint64_t start, uint64_t now)
{
    static uint64_t slot, due;
    double width = (double)NANOSECONDS / plan.rate;

    if (!due)
        due = start + (uint64_t)(random_fraction() * width);
    while (ring_len && result.issued < plan.most && due <= now) {
        issue(due);
        slot++;
        due = start + (uint64_t)(((double)slot + random_fraction()) * width);
    }
    if (!ring_len)
        return NANOSECONDS / 10; /* an answer will wake us */
    return due > now ? due - now : 0;
}

static double run(void)
{
    uint64_t start = clock_nanoseconds(), stop = start + (uint64_t)(plan.seconds * (double)NANOSECONDS);

    for (;;) {
        uint64_t now = clock_nanoseconds(), wait = NANOSECONDS / 10;

        if (now >= stop || result.issued >= plan.most) {
            if (!busy || now > stop + LATE_ANSWERS)
                return (double)(now - start) / (double)NANOSECONDS;
        } else if (plan.rate > 0) {
            wait = issue_due(start, now);
        } else {
            for (int free_now = ring_len; free_now > 0 && ring_len && result.issued < plan.most; free_now--)
                issue(now);
        }
        wait_events(wait);
    }
}

/* Idle for as long as it shall be; then all that still live are asked once. */
static void hold(void)
{
    uint64_t stop = clock_nanoseconds() + (uint64_t)(plan.seconds * (double)NANOSECONDS), now;
    int asked = 0;

    while ((now = clock_nanoseconds()) < stop)
        wait_events(stop - now < NANOSECONDS / 10 ? stop - now : NANOSECONDS / 10);
    stop += LATE_ANSWERS;
    while ((asked < plan.connections || busy) && clock_nanoseconds() < stop) {
        while (asked < plan.connections && ring_len && busy < OPENING_AT_ONCE) {
            asked++;
            if (connections[ring[ring_head]].state == CLOSED)
                release(take());
            else
                issue(now);
        }
        wait_events(NANOSECONDS / 10);
    }
    printf("{\"held\":%lu,\"lost\":%lu}\n", (unsigned long)result.done,
           (unsigned long)plan.connections - (unsigned long)result.done);
}

static void read_options(int argc, char **argv)
{
    const char *address = "127.0.0.1";
    int option, port = 8080;

    while ((option = getopt(argc, argv, "m:a:p:c:r:d:n:")) != -1) {
        switch (option) {
        case 'm':
            plan.mode = !strcmp(optarg, "http")   ? MODE_HTTP
                        : !strcmp(optarg, "hold") ? MODE_HOLD
                                                  : MODE_CONNECTIONS;
            break;
        case 'a':
            address = optarg;
            break;
        case 'p':
            port = (int)number_of('p', optarg, 1, 65535);
            break;
        case 'c':
            plan.connections = (int)number_of('c', optarg, 1, 1000000);
            break;
        case 'r':
            plan.rate = number_of('r', optarg, 0, 1e7);
            break;
        case 'd':
            plan.seconds = number_of('d', optarg, 0, MOST_SECONDS);
            break;
        case 'n':
            plan.most = (uint64_t)number_of('n', optarg, 1, 1e12);
            break;
        default:
            exit(2);
        }
    }
    plan.server = endpoint_of(address, port);
    if (plan.mode == MODE_HTTP) {
        plan.request_len =
            (size_t)snprintf(plan.request, sizeof(plan.request),
                             "GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n");
    } else {
        memset(plan.request, 'q', sizeof(plan.request));
        plan.request_len = sizeof(plan.request);
    }
}

int main(int argc, char **argv)
{
    double cpu, seconds;

    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    connections = calloc((size_t)plan.connections, sizeof(*connections));
    ring = calloc((size_t)plan.connections, sizeof(*ring));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || !ring || epoll < 0)
        fail("start");
    for (int i = 0; i < plan.connections; i++) {
        connections[i].fd = -1;
        release(&connections[i]);
    }
    if (plan.mode != MODE_CONNECTIONS)
        warm_up();
    puts("START");
    fflush(stdout);
    if (plan.mode == MODE_HOLD) {
        hold();
        return 0;
    }
    cpu = own_cpu_seconds();
    seconds = run();
    printf(
        "{\"done\":%lu,\"errors\":%lu,\"unanswered\":%d,\"seconds\":%.4f,\"rate\":%.1f,\"client_cpu\":%.4f,",
        (unsigned long)result.done, (unsigned long)result.errors, busy, seconds,
        (double)result.done / seconds, own_cpu_seconds() - cpu);
    histogram_print_json(&result.latency);
    puts("}");
    return 0;
}
