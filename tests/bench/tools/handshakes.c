/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HBONE handshakes with a node proxy, one after another in each thread: TCP connect, mutual TLS 1.3 with ALPN
 * h2, HTTP/2 preface and SETTINGS, CONNECT and its answer 200, close. bench-handshakes -a ADDRESS [-p PORT]
 * -A AUTHORITY -r ROOTS.pem -k KEY.pem -x CHAIN.pem -c THREADS -d SECONDS [-n MOST] [-t] [-R] -t   no
 * CONNECT: only until the server's SETTINGS -R   each thread is a peer that has had one handshake, and
 * resumes as Bruma's proxies do, where the server does; else all are full ones Prints START, then one line of
 * JSON.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/tools/measure.h"
#include "tests/support/resumer.h"

#define MOST_THREADS       128
#define FRAME_HEAD         9
#define FRAME_MAX          65536
#define FRAME_HEADERS      1
#define FRAME_RESET        3
#define FRAME_SETTINGS     4
#define FRAME_GOAWAY       7
#define INDEXED_STATUS_200 0x88 /* HPACK, static table entry 8 */

struct thread {
    pthread_t id;
    struct histogram latency;
    struct resumer resumer;
};

static SSL_CTX *context;
static struct sockaddr_in proxy;
static const char *authority;
static bool tls_only, resumes;
static uint64_t stop_at, most = UINT64_MAX;
static _Atomic uint64_t begun, succeeded, failed, resumed;
static char first_error[160];

static int give_up(const char *where)
{
    unsigned long code = ERR_peek_last_error();

    if (!*first_error)
        snprintf(first_error, sizeof(first_error), "%s: %s", where,
                 code ? ERR_reason_error_string(code) : strerror(errno));
    ERR_clear_error();
    return -1;
}

static int read_all(SSL *tls, unsigned char *into, int len)
{
    for (int done = 0; done < len;) {
        int n = SSL_read(tls, into + done, len - done);

        if (n <= 0)
            return -1;
        done += n;
    }
    return 0;
}

/* Preface, empty SETTINGS, and CONNECT on stream 1 with HPACK literals that need no table. Returns the
 * length. */
static size_t opening(unsigned char *out)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    static const unsigned char settings[FRAME_HEAD] = {0, 0, 0, FRAME_SETTINGS};
    static const unsigned char method[] = {0x02, 7,   'C', 'O', 'N',
                                           'N',  'E', 'C', 'T', 0x01}; /* then the authority */
    size_t len = sizeof(preface) - 1, authority_len = strlen(authority);

    memcpy(out, preface, sizeof(preface)); /* with its NUL, which the next write covers */
    memcpy(out + len, settings, FRAME_HEAD);
    len += FRAME_HEAD;
    if (!tls_only) {
        const unsigned char head[FRAME_HEAD] = {
            0, 0, (unsigned char)(sizeof(method) + 1 + authority_len), FRAME_HEADERS, 4, 0, 0, 0, 1};

        memcpy(out + len, head, FRAME_HEAD);
        len += FRAME_HEAD;
        memcpy(out + len, method, sizeof(method));
        len += sizeof(method);
        out[len++] = (unsigned char)authority_len;
        len += (size_t)snprintf((char *)out + len, 128, "%s", authority);
    }
    return len;
}

static bool is_200(const unsigned char *block, int len)
{
    int i = 0;

    while (i < len && (block[i] & 0xe0) == 0x20) /* changes of the dynamic table's size */
        i++;
    return i < len && block[i] == INDEXED_STATUS_200;
}

static int await_answer(SSL *tls)
{
    unsigned char head[FRAME_HEAD], payload[FRAME_MAX];

    for (;;) {
        int len;

        if (read_all(tls, head, FRAME_HEAD) < 0)
            return give_up("read");
        len = head[0] << 16 | head[1] << 8 | head[2];
        if (len > FRAME_MAX || (len && read_all(tls, payload, len) < 0))
            return give_up("read of a frame");
        if (head[3] == FRAME_SETTINGS && tls_only)
            return 0;
        if (head[3] == FRAME_HEADERS)
            return is_200(payload, len) ? 0 : give_up("the answer is not 200");
        if (head[3] == FRAME_RESET || head[3] == FRAME_GOAWAY)
            return give_up("reset or GOAWAY");
    }
}

static int handshake(int fd, SSL *tls, struct resumer *resumer)
{
    unsigned char request[512];
    size_t len = opening(request);
    int r;

    SSL_set_fd(tls, fd);
    SSL_set_app_data(tls, resumer);
    if (SSL_connect(tls) != 1)
        return give_up("TLS");
    if (SSL_write(tls, request, (int)len) != (int)len)
        return give_up("write");
    r = await_answer(tls);
    if (r == 0 && resumes) {
        atomic_fetch_add(&resumed, (uint64_t)SSL_session_reused(tls));
        resumer_keep(tls, resumer);
    }
    SSL_shutdown(tls);
    return r;
}

static int round_trip(struct resumer *resumer)
{
    struct timeval patience = {10, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, r;
    SSL *tls;

    if (fd < 0)
        return give_up("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&proxy, sizeof(proxy)) < 0) {
        r = give_up("connect");
    } else {
        tls = SSL_new(context);
        r = tls ? handshake(fd, tls, resumer) : give_up("SSL_new");
        SSL_free(tls);
    }
    close(fd);
    return r;
}

static void *work(void *data)
{
    struct thread *t = data;

    while (clock_nanoseconds() < stop_at && atomic_fetch_add(&begun, 1) < most) {
        uint64_t before = clock_nanoseconds();

        if (round_trip(&t->resumer) < 0) {
            atomic_fetch_add(&failed, 1);
        } else {
            atomic_fetch_add(&succeeded, 1);
            histogram_add(&t->latency, clock_nanoseconds() - before);
        }
    }
    return NULL;
}

static void make_context(const char *roots, const char *key, const char *chain)
{
    static const unsigned char h2[] = {2, 'h', '2'};

    context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        SSL_CTX_set_alpn_protos(context, h2, sizeof(h2)) != 0 ||
        SSL_CTX_load_verify_locations(context, roots, NULL) != 1 ||
        SSL_CTX_use_certificate_chain_file(context, chain) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (resumes && !resumer_prepare(context))
        fail("resumption");
}

int main(int argc, char **argv)
{
    const char *address = "127.0.0.1", *roots = "", *key = "", *chain = "";
    int option, port = 15008, threads_len = 1;
    static struct thread threads[MOST_THREADS];
    double seconds = 3, cpu;
    uint64_t start;

    while ((option = getopt(argc, argv, "a:A:p:r:k:x:c:d:n:tR")) != -1) {
        switch (option) {
        case 'a':
            address = optarg;
            break;
        case 'A':
            authority = optarg;
            break;
        case 'p':
            port = (int)number_of('p', optarg, 1, 65535);
            break;
        case 'r':
            roots = optarg;
            break;
        case 'k':
            key = optarg;
            break;
        case 'x':
            chain = optarg;
            break;
        case 'c':
            threads_len = (int)number_of('c', optarg, 1, MOST_THREADS);
            break;
        case 'd':
            seconds = number_of('d', optarg, 0, 60);
            break;
        case 'n':
            most = (uint64_t)number_of('n', optarg, 1, 1e12);
            break;
        case 't':
            tls_only = true;
            break;
        case 'R':
            resumes = true;
            break;
        default:
            return 2;
        }
    }
    if (!authority || strlen(authority) > 120) {
        fprintf(stderr, "bench-handshakes: -A: an authority of at most 120 characters\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    proxy = endpoint_of(address, port);
    make_context(roots, key, chain);
    for (int i = 0; i < (resumes ? threads_len : 1); i++) { /* warm-up, and proof that it works */
        if (round_trip(&threads[i].resumer) < 0) {
            fprintf(stderr, "bench-handshakes: the first one failed: %s\n", first_error);
            return 1;
        }
    }
    resumed = 0;
    cpu = own_cpu_seconds();
    puts("START");
    fflush(stdout);
    start = clock_nanoseconds();
    stop_at = start + (uint64_t)(seconds * (double)NANOSECONDS);
    for (int i = 0; i < threads_len; i++) {
        if (pthread_create(&threads[i].id, NULL, work, &threads[i]) != 0)
            fail("pthread_create");
    }
    for (int i = 0; i < threads_len; i++)
        pthread_join(threads[i].id, NULL);
    seconds = (double)(clock_nanoseconds() - start) / (double)NANOSECONDS;
    for (int i = 1; i < threads_len; i++)
        histogram_merge(&threads[0].latency, &threads[i].latency);
    printf("{\"done\":%lu,\"resumed\":%lu,\"errors\":%lu,\"seconds\":%.4f,\"rate\":%.1f,\"client_cpu\":%.4f,",
           (unsigned long)succeeded, (unsigned long)resumed, (unsigned long)failed, seconds,
           (double)succeeded / seconds, own_cpu_seconds() - cpu);
    histogram_print_json(&threads[0].latency);
    printf(",\"first_error\":\"%s\"}\n", first_error);
    return 0;
}
