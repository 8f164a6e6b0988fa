/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer of the mesh that resumes its sessions with a proxy, and tries to get more out of them.
 *   hostile-resumption ADDRESS PORT CERT.pem KEY.pem ROOTS.pem
 * Prints for each attempt its name and full, resumed or refused; "early" says what became of early data.
 */
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/resumer.h"

static const char opening[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"; /* and SETTINGS */
static SSL_CTX *context;
static struct sockaddr_in to = {.sin_family = AF_INET};

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "hostile-resumption: %s\n", what);
    exit(2);
}

static void make_context(char *const files[3])
{
    static const unsigned char alpn[] = {2, 'h', '2'};

    context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        SSL_CTX_use_certificate_chain_file(context, files[0]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, files[1], SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_load_verify_locations(context, files[2], NULL) != 1 ||
        SSL_CTX_set_alpn_protos(context, alpn, sizeof(alpn)) || !resumer_prepare(context))
        give_up("context");
}

/* The server's first bytes say that it has taken our certificate, or our session. */
static const char *handshake(SSL *tls, struct resumer *r, bool early)
{
    char answer[64];
    size_t written;

    if (early && SSL_write_early_data(tls, opening, sizeof(opening) - 1, &written) != 1)
        return "refused";
    if (SSL_connect(tls) != 1)
        return "refused";
    if ((!early || SSL_get_early_data_status(tls) != SSL_EARLY_DATA_ACCEPTED) &&
        SSL_write(tls, opening, sizeof(opening) - 1) <= 0)
        return "refused";
    if (SSL_read(tls, answer, sizeof(answer)) <= 0)
        return "refused";
    resumer_keep(tls, r);
    return SSL_session_reused(tls) ? "resumed" : "full";
}

static void attempt(const char *name, struct resumer *r, bool early)
{
    struct timeval patience = {20, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    SSL *tls = SSL_new(context);

    if (fd < 0 || !tls || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
        connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 || SSL_set_fd(tls, fd) != 1)
        give_up("connect");
    SSL_set_app_data(tls, r);
    printf("%s %s\n", name, handshake(tls, r, early));
    if (early)
        printf("early data %s\n", SSL_get_early_data_status(tls) == SSL_EARLY_DATA_ACCEPTED   ? "accepted"
                                  : SSL_get_early_data_status(tls) == SSL_EARLY_DATA_REJECTED ? "rejected"
                                                                                              : "not sent");
    fflush(stdout);
    ERR_clear_error();
    SSL_free(tls);
    close(fd);
}

int main(int argc, char **argv)
{
    struct resumer own = {}, copy;

    if (argc != 6 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
        give_up("arguments");
    to.sin_port = htons((uint16_t)atoi(argv[2]));
    signal(SIGPIPE, SIG_IGN);
    make_context(argv + 3);
    attempt("first", &own, false);
    if (!own.has)
        give_up("the proxy does not take part");
    copy = own;
    attempt("again", &own, false);
    attempt("replayed", &copy, false);
    copy = own;
    copy.secret[0] ^= 1;
    attempt("overheard", &copy, false);
    attempt("after that", &own, false); /* its name was used up */
    copy = own;
    RAND_bytes(copy.id, sizeof(copy.id));
    attempt("made up", &copy, false);
    own.early_data = 16384;
    attempt("early", &own, true);
    own.early_data = 0;
    attempt("last", &own, false);
    return 0;
}
