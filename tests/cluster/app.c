/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What runs in the pods of the test cluster. Linked statically: its images hold this file and nothing else.
 *
 *     app pause      the first process of a pod: keeps the namespaces, reaps
 *     app serve      an application: HTTP on 8080, a line of text on 9000, gRPC health on 9090, and on 7000
 * its name, which is NAME or else the host's, and then each line back, each on IPv4 and IPv6. It prints READY
 * when it listens.
 *
 * HTTP: /bytes/COUNT/RATE is a body of COUNT bytes at RATE bytes a second; anything else is answered with the
 * pod's name and the address of the peer. If CALL is "ADDRESS PORT", the application also talks, from its
 * first moment on: a request every 50 ms, named after the pod so that a packet capture would show it, and a
 * line of output whenever the outcome changes.
 *
 * If END is "patient SECONDS" or "hasty SECONDS", it takes so long to end when it is told to, and serves
 * until then; a hasty one takes no new connections on 7000. Whom it has taken on 7000 it serves: the kernel
 * resets what waits in the queue of a listener that is closed, and what is open when the process ends.
 * However little processor time it gets, it has accepted all of the queue before it closes the listener, and
 * answered each connection's first line before it ends; others are cut then.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOK_AGAIN 2000    /* microseconds */
#define NO_DEVICE  INT_MAX /* an index that none has */

static char name[256];
static atomic_int owed; /* connections on 7000 that have not got their first line back */

static long long now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void fail(const char *what)
{
    fprintf(stderr, "app: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int send_all(int fd, const void *data, size_t size)
{
    const char *p = data;

    while (size) {
        ssize_t n = send(fd, p, size, MSG_NOSIGNAL);

        if (n <= 0)
            return -1;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

static void peer_of(int fd, char *text, size_t size)
{
    struct sockaddr_in6 a;
    socklen_t len = sizeof(a);

    if (getpeername(fd, (struct sockaddr *)&a, &len) ||
        !inet_ntop(AF_INET6, &a.sin6_addr, text, (socklen_t)size))
        snprintf(text, size, "unknown");
    if (!strncmp(text, "::ffff:", 7))
        memmove(text, text + 7, strlen(text + 7) + 1);
}

/* ---- HTTP ---- */

static void send_body(int fd, unsigned long long count, unsigned long long rate)
{
    static const char block[16384] = {'b'};
    unsigned long long sent = 0;
    long long began = now_ms();

    while (sent < count) {
        unsigned long long allowed = rate * (unsigned long long)(now_ms() - began) / 1000;
        unsigned long long n = allowed > sent ? allowed - sent : 0;

        n = n > count - sent ? count - sent : n;
        n = n > sizeof(block) ? sizeof(block) : n;
        if (n && send_all(fd, block, n))
            return;
        sent += n;
        if (n < sizeof(block))
            usleep(10000);
    }
}

static void serve_http(int fd)
{
    char request[2048], head[512], body[512], peer[INET6_ADDRSTRLEN];
    unsigned long long count, rate;
    size_t len = 0;

    while (len < sizeof(request) - 1) {
        ssize_t n = recv(fd, request + len, sizeof(request) - 1 - len, 0);

        if (n <= 0)
            return;
        len += (size_t)n;
        request[len] = '\0';
        if (strstr(request, "\r\n\r\n"))
            break;
    }
    if (sscanf(request, "GET /bytes/%llu/%llu ", &count, &rate) == 2) {
        snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\nConnection: close\r\n\r\n",
                 count);
        if (send_all(fd, head, strlen(head)) == 0)
            send_body(fd, count, rate);
        return;
    }
    peer_of(fd, peer, sizeof(peer));
    snprintf(body, sizeof(body), "%s sees %s\n", name, peer);
    snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
             strlen(body));
    if (send_all(fd, head, strlen(head)) == 0)
        send_all(fd, body, strlen(body));
}

static void serve_words(int fd)
{
    bool first = true;
    char buf[512];
    ssize_t n;

    snprintf(buf, sizeof(buf), "%s\n", name);
    if (send_all(fd, buf, strlen(buf)) == 0) {
        while ((n = recv(fd, buf, sizeof(buf), 0)) > 0 && send_all(fd, buf, (size_t)n) == 0) {
            if (first)
                atomic_fetch_sub(&owed, 1);
            first = false;
        }
    }
    if (first)
        atomic_fetch_sub(&owed, 1);
}

static void serve_text(int fd)
{
    char line[300];

    snprintf(line, sizeof(line), "hello from %s\n", name);
    send_all(fd, line, strlen(line));
}

/* ---- gRPC health: whatever is called is answered with SERVING ---- */

enum { DATA = 0, HEADERS = 1, SETTINGS = 4, PING = 6, END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

static int send_frame(int fd, int type, int flags, unsigned int stream, const void *payload, size_t size)
{
    unsigned char head[9] = {(unsigned char)(size >> 16), (unsigned char)(size >> 8), (unsigned char)size,
                             (unsigned char)type, (unsigned char)flags};

    stream = htonl(stream);
    memcpy(head + 5, &stream, sizeof(stream));
    return send_all(fd, head, sizeof(head)) || send_all(fd, payload, size);
}

static int answer_health(int fd, unsigned int stream)
{
    /* :status 200; two literals without indexing; the message HealthCheckResponse{status: SERVING} */
    static const char headers[] = "\x88\x00\x0c"
                                  "content-type"
                                  "\x10"
                                  "application/grpc";
    static const char message[] = {0, 0, 0, 0, 2, 0x08, 0x01};
    static const char trailers[] = "\x00\x0b"
                                   "grpc-status"
                                   "\x01"
                                   "0";

    return send_frame(fd, HEADERS, END_HEADERS, stream, headers, sizeof(headers) - 1) ||
           send_frame(fd, DATA, 0, stream, message, sizeof(message)) ||
           send_frame(fd, HEADERS, END_HEADERS | END_STREAM, stream, trailers, sizeof(trailers) - 1);
}

static void serve_health(int fd)
{
    unsigned char head[24], payload[16384];

    if (recv(fd, head, 24, MSG_WAITALL) != 24 || memcmp(head, "PRI * HTTP/2.0", 14) != 0 ||
        send_frame(fd, SETTINGS, 0, 0, NULL, 0))
        return;
    while (recv(fd, head, 9, MSG_WAITALL) == 9) {
        size_t size = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
        int type = head[3], flags = head[4], r = 0;
        unsigned int stream;

        if (size > sizeof(payload) || (size && recv(fd, payload, size, MSG_WAITALL) != (ssize_t)size))
            return;
        memcpy(&stream, head + 5, sizeof(stream));
        stream = ntohl(stream) & 0x7fffffff;
        if (type == SETTINGS && !(flags & ACK))
            r = send_frame(fd, SETTINGS, ACK, 0, NULL, 0);
        else if (type == PING && !(flags & ACK))
            r = send_frame(fd, PING, ACK, 0, payload, size);
        else if ((type == DATA || type == HEADERS) && (flags & END_STREAM))
            r = answer_health(fd, stream);
        if (r)
            return;
    }
}

/* ---- connections ---- */

struct service {
    int port, listener;
    void (*serve)(int fd);
    pthread_t thread;
    atomic_bool closed;
};

struct guest {
    int fd;
    void (*serve)(int fd);
};

static void *serve_guest(void *arg)
{
    struct guest *g = arg;
    char rest[256];

    g->serve(g->fd);
    /* What the peer sent and nobody has read would turn the end of the connection into a reset. */
    shutdown(g->fd, SHUT_WR);
    while (recv(g->fd, rest, sizeof(rest), 0) > 0)
        ;
    close(g->fd);
    free(g);
    return NULL;
}

static pthread_t begin(void *(*run)(void *), void *arg)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, run, arg))
        fail("thread");
    return thread;
}

static void spawn(void *(*run)(void *), void *arg)
{
    pthread_detach(begin(run, arg));
}

static void *accept_guests(void *arg)
{
    struct service *s = arg;

    for (;;) {
        struct guest *g = calloc(1, sizeof(*g));

        if (!g)
            fail("memory");
        g->fd = accept(s->listener, NULL, NULL);
        g->serve = s->serve;
        if (g->fd < 0) {
            free(g);
            if (s->closed)
                return NULL;
        } else {
            if (s->serve == serve_words)
                atomic_fetch_add(&owed, 1);
            spawn(serve_guest, g);
        }
    }
}

static void listen_on(struct service *s)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)s->port)};
    int one = 1;

    s->listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(s->listener, (struct sockaddr *)&a, sizeof(a)) || listen(s->listener, 128))
        fail("listen");
}

/* ---- ending ---- */

/* Of handshakes with the port that are on their way. */
static int half_open(const char *table, int port)
{
    FILE *f = fopen(table, "re");
    unsigned local, state;
    char line[256];
    int n = 0;

    if (!f)
        fail(table);
    while (fgets(line, sizeof(line), f))
        n += sscanf(line, "%*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x", &local, &state) == 2 &&
             (int)local == port && state == TCP_SYN_RECV;
    fclose(f);
    return n;
}

static bool nobody_waits(const struct service *s)
{
    struct tcp_info info = {};
    socklen_t len = sizeof(info);

    if (half_open("/proc/net/tcp", s->port) || half_open("/proc/net/tcp6", s->port))
        return false;
    if (getsockopt(s->listener, IPPROTO_TCP, TCP_INFO, &info, &len))
        fail("TCP_INFO");
    return info.tcpi_unacked == 0; /* of a listener: the length of its queue */
}

/* New ones are refused at once: nothing arrives by the device that the listener is bound to. Those that wait
 * are accepted. */
static void stop_accepting(struct service *s)
{
    const int device = NO_DEVICE;

    if (s->closed)
        return;
    if (setsockopt(s->listener, SOL_SOCKET, SO_BINDTOIFINDEX, &device, sizeof(device)))
        fail("SO_BINDTOIFINDEX");
    while (!nobody_waits(s))
        usleep(LOOK_AGAIN);
    s->closed = true;
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL); /* what it has accepted is counted */
}

/* ---- calling ---- */

/* "ok", or what went wrong. */
static const char *call(const struct sockaddr *address, socklen_t len)
{
    struct timeval patience = {.tv_sec = 2};
    char text[512];
    const char *outcome = "ok";
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, address, len)) {
        outcome = strerrorname_np(errno);
    } else {
        snprintf(text, sizeof(text), "GET /call-of-%s HTTP/1.0\r\n\r\n", name);
        if (send_all(fd, text, strlen(text)))
            outcome = strerrorname_np(errno);
        else if (recv(fd, text, sizeof(text), 0) <= 0)
            outcome = "closed";
    }
    close(fd);
    return outcome;
}

static void *caller(void *arg)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    char host[INET6_ADDRSTRLEN + 1];
    const char *before = "";
    unsigned short port;
    int is_v4;

    if (sscanf(arg, "%46s %hu", host, &port) != 2)
        fail("CALL");
    v4.sin_port = v6.sin6_port = htons(port);
    is_v4 = inet_pton(AF_INET, host, &v4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, host, &v6.sin6_addr) != 1)
        fail("CALL");
    for (;;) {
        const char *outcome =
            is_v4 ? call((struct sockaddr *)&v4, sizeof(v4)) : call((struct sockaddr *)&v6, sizeof(v6));

        if (strcmp(outcome, before) != 0) {
            printf("%lld ms call %s\n", now_ms(), outcome);
            fflush(stdout);
        }
        before = outcome;
        usleep(50000);
    }
    return NULL;
}

/* ---- the two programs ---- */

static struct service services[] = {{.port = 8080, .serve = serve_http},
                                    {.port = 9000, .serve = serve_text},
                                    {.port = 9090, .serve = serve_health},
                                    {.port = 7000, .serve = serve_words}};
static unsigned linger; /* seconds */
static bool hasty;

static void end(void)
{
    struct service *words = &services[3];

    if (linger) {
        if (hasty)
            stop_accepting(words);
        sleep(linger);
        stop_accepting(words);
        while (owed)
            usleep(LOOK_AGAIN);
    }
    _exit(0);
}

static void leave(int number)
{
    (void)number;
    _exit(0);
}

static void reap(int number)
{
    (void)number;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

static void serve(void)
{
    char *target = getenv("CALL"), *ending = getenv("END"), *own = getenv("NAME"), how[16];
    sigset_t told;
    int number;

    if (ending) {
        if (sscanf(ending, "%15s %u", how, &linger) != 2)
            fail("END");
        hasty = !strcmp(how, "hasty");
    }
    sigemptyset(&told);
    sigaddset(&told, SIGTERM);
    sigaddset(&told, SIGINT);
    sigprocmask(SIG_BLOCK, &told, NULL); /* in all threads: they are waited for */
    if (own)
        snprintf(name, sizeof(name), "%s", own);
    else
        gethostname(name, sizeof(name) - 1);
    if (target)
        spawn(caller, target);
    for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
        listen_on(&services[i]);
        services[i].thread = begin(accept_guests, &services[i]);
    }
    puts("READY");
    fflush(stdout);
    sigwait(&told, &number);
    end();
}

int main(int argc, char **argv)
{
    const char *program = argc == 2 ? argv[1] : "";

    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    if (!strcmp(program, "serve")) {
        serve();
    } else if (!strcmp(program, "pause")) {
        signal(SIGCHLD, reap);
    } else {
        fprintf(stderr, "usage: app pause|serve\n");
        return 2;
    }
    for (;;)
        pause();
}
