/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/rpc/grpc_client.h"
#include "lib/rpc/lookup.h"
#include "lib/tls_policy.h"

#define LOOKUP_LIMIT_MILLISECONDS  10000
#define CONNECT_LIMIT_MILLISECONDS 5000
#define PING_INTERVAL_MILLISECONDS 30000
#define PING_TIMEOUT_MILLISECONDS  10000

static const unsigned char alpn[] = {2, 'h', '2'};

/* ---- the end ---- */

static void stop_lookup(struct grpc_channel *ch)
{
    loop_timer_cancel(&ch->lookup_limit);
    if (ch->lookup)
        loop_watch_remove(ch->loop, &ch->lookup_watch);
    lookup_free(&ch->lookup);
}

static void bury(struct h2_connection *c)
{
    struct grpc_channel *ch = container_of(c, struct grpc_channel, connection);

    h2_connection_close(c);
    SSL_CTX_free(ch->tls);
    if (ch->addresses)
        freeaddrinfo(ch->addresses);
    loop_free_later(ch->loop, ch);
}

/* The user may close the channel in any of these callbacks. */
static void die(struct grpc_channel *ch, const char *error)
{
    char why[200];

    if (ch->dead)
        return;
    ch->dead = true;
    /* The words tell a server that is moving from one that is unwell. */
    snprintf(why, sizeof(why), "%s%s", ch->draining ? "received prior goaway: " : "", error);
    loop_timer_cancel(&ch->ping);
    stop_lookup(ch);
    grpc_calls_end(ch, why);
    if (ch->down)
        ch->down(ch->data, why);
}

void grpc_channel_close(struct grpc_channel **ptr)
{
    struct grpc_channel *ch = *ptr;

    if (!ch)
        return;
    *ptr = NULL;
    ch->dead = true;
    ch->down = NULL;
    loop_timer_cancel(&ch->ping);
    stop_lookup(ch);
    grpc_calls_drop(ch);
    if (ch->connection.busy) {
        /* inside one of its own callbacks: the session must live until that returns */
        ch->connection.closed = true;
        ch->connection.down = bury;
        return;
    }
    bury(&ch->connection);
}

/* ---- while it is up ---- */

static void on_ping(struct loop_timer *timer)
{
    struct grpc_channel *ch = container_of(timer, struct grpc_channel, ping);
    unsigned after = ch->ping_interval;

    /* What has arrived since counts as an answer: the PING's own may stand behind a long message. */
    if (ch->ping_sent && !ch->ping_answered && ch->connection.last_received <= ch->ping_sent) {
        h2_connection_fail(&ch->connection, "the server did not answer a PING");
        return;
    }
    if (ch->ping_sent) {
        ch->ping_sent = 0;
        after -= after > ch->ping_timeout ? ch->ping_timeout : 0;
    } else if (!list_empty(&ch->calls)) {
        ch->ping_sent = loop_now(ch->loop);
        ch->ping_answered = false;
        after = ch->ping_timeout;
        nghttp2_submit_ping(ch->connection.session, NGHTTP2_FLAG_NONE, NULL);
        h2_connection_send(&ch->connection);
    }
    loop_timer_set(ch->loop, timer, after);
}

void grpc_channel_ping(struct grpc_channel *ch)
{
    if (!ch->ready || ch->dead || ch->connection.closed)
        return;
    nghttp2_submit_ping(ch->connection.session, NGHTTP2_FLAG_NONE, NULL);
    h2_connection_send(&ch->connection);
}

uint64_t grpc_channel_heard(const struct grpc_channel *ch)
{
    return ch->connection.received;
}

static void on_ready(struct h2_connection *c)
{
    struct grpc_channel *ch = container_of(c, struct grpc_channel, connection);

    ch->ready = true;
    loop_timer_set(ch->loop, &ch->ping, ch->ping_interval);
    grpc_calls_begin(ch);
}

/* ---- TLS ---- */

static int add_roots(SSL_CTX *tls, const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert;
    int n = 0;

    while (bio && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        n += X509_STORE_add_cert(SSL_CTX_get_cert_store(tls), cert);
        X509_free(cert);
    }
    BIO_free(bio);
    ERR_clear_error();
    return n ? 0 : -EINVAL;
}

static bool names(X509 *leaf, const char *host)
{
    struct in6_addr ignored;

    if (inet_pton(AF_INET, host, &ignored) == 1 || inet_pton(AF_INET6, host, &ignored) == 1)
        return X509_check_ip_asc(leaf, host, 0) == 1;
    return X509_check_host(leaf, host, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1;
}

/* One name of two will do, and either may be an address: OpenSSL's own check would want both. */
static int check_name(int preverified, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    const struct grpc_channel *ch = SSL_get_app_data(ssl);
    X509 *leaf = X509_STORE_CTX_get0_cert(store);

    if (!preverified || X509_STORE_CTX_get_error_depth(store) != 0)
        return preverified;
    if (names(leaf, ch->host) || (*ch->alternate_host && names(leaf, ch->alternate_host)))
        return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_HOSTNAME_MISMATCH);
    return 0;
}

static int make_context(struct grpc_channel *ch, const char *roots_pem)
{
    ch->tls = SSL_CTX_new(TLS_client_method());
    if (!ch->tls)
        return -ENOMEM;
    if (tls_policy_apply(ch->tls) < 0) {
        ERR_clear_error();
        return -EINVAL;
    }
    SSL_CTX_set_alpn_protos(ch->tls, alpn, sizeof(alpn));
    SSL_CTX_set_verify(ch->tls, SSL_VERIFY_PEER, check_name);
    SSL_CTX_set_mode(ch->tls, SSL_MODE_RELEASE_BUFFERS);
    /* What is named as root is trusted as it is, also where somebody else has signed it. */
    X509_STORE_set_flags(SSL_CTX_get_cert_store(ch->tls), X509_V_FLAG_PARTIAL_CHAIN);
    if (roots_pem)
        return add_roots(ch->tls, roots_pem);
    return SSL_CTX_set_default_verify_paths(ch->tls) ? 0 : -EINVAL;
}

static SSL *make_ssl(struct grpc_channel *ch)
{
    SSL *ssl = SSL_new(ch->tls);

    if (!ssl)
        return NULL;
    SSL_set_connect_state(ssl);
    SSL_set_app_data(ssl, ch);
    if (!ch->host_is_address)
        SSL_set_tlsext_host_name(ssl, ch->host);
    return ssl;
}

/* ---- the connection ---- */

static void keep_alive(int fd)
{
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){300}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){75}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){9}, sizeof(int));
}

static int dial(const struct sockaddr *to, socklen_t len, bool *ret_connecting)
{
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), r;

    if (fd < 0)
        return -errno;
    if (to->sa_family != AF_UNIX)
        keep_alive(fd);
    if (connect(fd, to, len) == 0) {
        *ret_connecting = false;
        return fd;
    }
    if (errno == EINPROGRESS) {
        *ret_connecting = true;
        return fd;
    }
    r = -errno;
    close(fd);
    return r;
}

static int connect_to(struct grpc_channel *ch, const struct sockaddr *to, socklen_t len)
{
    SSL *ssl = ch->tls ? make_ssl(ch) : NULL;
    bool connecting = false;
    int fd = ch->tls && !ssl ? -ENOMEM : grpc_session_new(ch), r;

    if (fd == 0)
        fd = dial(to, len, &connecting);
    if (fd < 0) {
        SSL_free(ssl);
        h2_connection_close(&ch->connection);
        return fd;
    }
    r = h2_connection_open(&ch->connection, ch->loop, fd, ssl, connecting, CONNECT_LIMIT_MILLISECONDS);
    if (r < 0)
        h2_connection_close(&ch->connection);
    return r;
}

/* The host's addresses in their order, until one can be tried. */
static int connect_next(struct grpc_channel *ch)
{
    int r = -EHOSTUNREACH;

    while (ch->next_address) {
        const struct addrinfo *a = ch->next_address;

        ch->next_address = a->ai_next;
        r = connect_to(ch, a->ai_addr, a->ai_addrlen);
        if (r == 0)
            return 0;
    }
    return r;
}

static void on_down(struct h2_connection *c)
{
    struct grpc_channel *ch = container_of(c, struct grpc_channel, connection);
    char why[160];

    if (ch->dead)
        return;
    snprintf(why, sizeof(why), "%s", c->error);
    if (c->connecting && ch->next_address) {
        h2_connection_close(c);
        if (connect_next(ch) == 0)
            return;
    }
    die(ch, why);
}

static void on_lookup(struct loop_watch *watch, uint32_t events)
{
    struct grpc_channel *ch = container_of(watch, struct grpc_channel, lookup_watch);
    char text[96];
    int r;

    (void)events;
    ch->addresses = ch->next_address = lookup_take(ch->lookup);
    stop_lookup(ch);
    if (!ch->addresses) {
        die(ch, "the host's name cannot be resolved");
        return;
    }
    r = connect_next(ch);
    if (r < 0)
        die(ch, strerror_r(-r, text, sizeof(text)));
}

static void on_lookup_limit(struct loop_timer *timer)
{
    die(container_of(timer, struct grpc_channel, lookup_limit), "resolving the host's name timed out");
}

/* The kernel answers at once: a server with too many who wait is EAGAIN. */
static int connect_to_unix(struct grpc_channel *ch, const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(to.sun_path))
        return -ENAMETOOLONG;
    strcpy(to.sun_path, path);
    return connect_to(ch, (const struct sockaddr *)&to, sizeof(to));
}

static int find_server(struct grpc_channel *ch)
{
    int r;

    ch->addresses = ch->next_address = lookup_numeric(ch->host, ch->port);
    if (ch->addresses)
        return connect_next(ch);
    r = lookup_start(ch->host, ch->port, &ch->lookup);
    if (r < 0)
        return r;
    r = loop_watch_add(ch->loop, &ch->lookup_watch, lookup_fd(ch->lookup), EPOLLIN, on_lookup);
    if (r < 0) {
        lookup_free(&ch->lookup);
        return r;
    }
    loop_timer_set(ch->loop, &ch->lookup_limit, LOOKUP_LIMIT_MILLISECONDS);
    return 0;
}

int grpc_channel_open(struct loop *loop, const struct grpc_channel_config *config, grpc_channel_down_fn down,
                      void *data, struct grpc_channel **ret)
{
    const char *alternate = config->alternate_host ? config->alternate_host : "";
    const char *host = config->unix_path ? "localhost" : config->host;
    struct grpc_channel *ch;
    struct in6_addr ignored;
    int r;

    if (!*host || strlen(host) >= sizeof(ch->host) || strlen(alternate) >= sizeof(ch->alternate_host))
        return -EINVAL;
    ch = calloc(1, sizeof(*ch));
    if (!ch)
        return -ENOMEM;
    ch->loop = loop;
    ch->down = down;
    ch->data = data;
    ch->port = config->port;
    strcpy(ch->host, host);
    strcpy(ch->alternate_host, alternate);
    ch->host_is_address =
        inet_pton(AF_INET, ch->host, &ignored) == 1 || inet_pton(AF_INET6, ch->host, &ignored) == 1;
    ch->max_message = config->max_message ? config->max_message : 4 * 1024 * 1024;
    ch->stall = config->stall_milliseconds;
    ch->ping_interval = config->ping_milliseconds ? config->ping_milliseconds : PING_INTERVAL_MILLISECONDS;
    ch->ping_timeout = PING_TIMEOUT_MILLISECONDS;
    ch->connection.secret = config->secret;
    ch->connection.watch.fd = -1;
    ch->connection.ready = on_ready;
    ch->connection.down = on_down;
    list_init(&ch->calls);
    loop_timer_init(&ch->ping, on_ping);
    loop_timer_init(&ch->lookup_limit, on_lookup_limit);
    if (config->unix_path)
        strcpy(ch->authority, ch->host);
    else
        snprintf(ch->authority, sizeof(ch->authority), strchr(ch->host, ':') ? "[%s]:%u" : "%s:%u", ch->host,
                 ch->port);
    r = config->plaintext || config->unix_path ? 0 : make_context(ch, config->roots_pem);
    if (r == 0)
        r = config->unix_path ? connect_to_unix(ch, config->unix_path) : find_server(ch);
    if (r < 0) {
        grpc_channel_close(&ch);
        return r;
    }
    *ret = ch;
    return 0;
}
