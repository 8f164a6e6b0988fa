/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer of the mesh that asks for new keys (RFC 8446 section 4.6.3) as often as it is told to, by OpenSSL.
 *   hostile-peer ADDRESS PORT CERT.pem KEY.pem ROOTS.pem COUNT [-i MICROSECONDS between] [-d BYTES of data
 * between]
 *                [-c AUTHORITY: open a stream first, with all the credit there is] [-u: do not read]
 * The data are frames of a type that nobody knows, so they want no answer. Prints READY, then one of
 *   SENT N                  all of them, and the connection lives
 *   ENDED N                 the other end closed it
 *   BLOCKED N, later SENT   with -u: nothing could be sent for 3 seconds; then it has read, and gone on
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FRAME_HEAD  9
#define DATA_MAX    16384
#define BLOCKED_FOR 3000

static SSL *tls;
static int fd;
static bool reads = true;

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "hostile-peer: %s\n", what);
    exit(2);
}

static void connect_to(const char *address, const char *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || inet_pton(AF_INET, address, &to.sin_addr) != 1 ||
        connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        give_up("connect");
}

static void shake_hands(char *const files[3])
{
    static const unsigned char alpn[] = {2, 'h', '2'};
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());

    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        SSL_CTX_use_certificate_chain_file(context, files[0]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, files[1], SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_load_verify_locations(context, files[2], NULL) != 1 ||
        SSL_CTX_set_alpn_protos(context, alpn, sizeof(alpn)))
        give_up("context");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    tls = SSL_new(context);
    if (!tls || SSL_set_fd(tls, fd) != 1 || SSL_connect(tls) != 1)
        give_up("handshake");
}

/* Takes what has come. False: the end. */
static bool drain(void)
{
    char buf[65536];
    int n;

    while ((n = SSL_read(tls, buf, sizeof(buf))) > 0)
        ;
    return SSL_get_error(tls, n) == SSL_ERROR_WANT_READ;
}

/* Waits until OpenSSL can go on after r. 1: it can, 0: nothing moves, -1: the end. */
static int wait_for(int r)
{
    int error = SSL_get_error(tls, r);
    struct pollfd p = {.fd = fd, .events = error == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN};

    if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ)
        return -1;
    if (reads && error == SSL_ERROR_WANT_WRITE)
        p.events |= POLLIN;
    if (poll(&p, 1, BLOCKED_FOR) <= 0)
        return 0;
    if (reads && (p.revents & POLLIN) && !drain())
        return -1;
    return 1;
}

static int blocked(unsigned long done)
{
    if (reads)
        return -1;
    printf("BLOCKED %lu\n", done);
    fflush(stdout);
    reads = true;
    return drain() ? 1 : -1;
}

static int write_all(const uint8_t *data, int len, unsigned long done)
{
    while (len) {
        int n = SSL_write(tls, data, len), r;

        if (n > 0) {
            data += n;
            len -= n;
            continue;
        }
        r = wait_for(n);
        if (r == 0)
            r = blocked(done);
        if (r < 0)
            return -1;
    }
    return 0;
}

static int ask(unsigned long done)
{
    int r;

    if (SSL_key_update(tls, SSL_KEY_UPDATE_REQUESTED) != 1)
        return -1;
    while ((r = SSL_do_handshake(tls)) != 1) {
        r = wait_for(r);
        if (r == 0)
            r = blocked(done);
        if (r < 0)
            return -1;
    }
    return 0;
}

/* Preface, SETTINGS with the largest window, as much credit for the connection, and CONNECT. */
static int opening(uint8_t *out, const char *authority)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    static const uint8_t settings[] = {0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff},
                         credit[] = {0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xfe, 0, 0};
    uint8_t *at = out;

    memcpy(at, preface, sizeof(preface) - 1);
    at += sizeof(preface) - 1;
    memcpy(at, settings, sizeof(settings));
    at += sizeof(settings);
    memcpy(at, credit, sizeof(credit));
    at += sizeof(credit);
    if (authority) {
        const uint8_t len = (uint8_t)strlen(authority);
        const uint8_t head[] = {0,   0,   (uint8_t)(11 + len),
                                1,   4,   0,
                                0,   0,   1, /* HEADERS */
                                2,   7,   'C',
                                'O', 'N', 'N',
                                'E', 'C', 'T',
                                1,   len};

        memcpy(at, head, sizeof(head));
        at += sizeof(head);
        memcpy(at, authority, len);
        at += len;
    }
    return (int)(at - out);
}

int main(int argc, char **argv)
{
    static uint8_t out[1024], frame[FRAME_HEAD + DATA_MAX];
    unsigned long count, done, pause = 0, data = 0;
    const char *authority = NULL;
    int option;

    while ((option = getopt(argc, argv, "i:d:c:u")) > 0) {
        if (option == 'i')
            pause = strtoul(optarg, NULL, 10);
        else if (option == 'd')
            data = strtoul(optarg, NULL, 10);
        else if (option == 'c')
            authority = optarg;
        else if (option == 'u')
            reads = false;
        else
            give_up("options");
    }
    if (argc - optind != 6 || data > DATA_MAX || (authority && strlen(authority) > 100))
        give_up("arguments");
    argv += optind;
    signal(SIGPIPE, SIG_IGN);
    connect_to(argv[0], argv[1]);
    shake_hands(argv + 2);
    count = strtoul(argv[5], NULL, 10);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (write_all(out, opening(out, authority), 0) < 0)
        give_up("opening");
    frame[0] = (uint8_t)(data >> 16);
    frame[1] = (uint8_t)(data >> 8);
    frame[2] = (uint8_t)data;
    frame[3] = 0xfa;
    puts("READY");
    fflush(stdout);
    if (!reads)
        sleep(1); /* so that the other end's socket is full */
    for (done = 0; done < count; done++) {
        if (reads && !drain())
            break;
        if (ask(done) < 0 || (data && write_all(frame, FRAME_HEAD + (int)data, done) < 0))
            break;
        if (pause)
            usleep((useconds_t)pause);
    }
    printf("%s %lu\n", done == count && drain() ? "SENT" : "ENDED", done);
    return 0;
}
