/* SPDX-License-Identifier: Apache-2.0 */
/* The admin pages, metrics and readiness, over real sockets. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "proxy/admin/admin.h"
#include "proxy/admin/log_levels.h"
#include "tests/unit/lib/rpc/http_client.h"

static struct loop *loop;
static struct admin *admin;
static struct loop_thread *thread;
static struct endpoint pages, metrics, ready;
static char directory[32], path[64];

/* What the proxy would say. */
static const char *pending = "";
static int quits, dumps; /* atomic */
static bool owner;       /* atomic: of the Unix socket */
static void *dump_token;
static struct loop_timer dump_timer;

/* Of a dump, how much has been told; it is longer than what the kernel holds for a client that does not read.
 */
#define PIECES 1000

struct dump_reader {
    int number, pieces;
};

static int readers; /* atomic: open now */

static int next_piece(void *data, FILE *out)
{
    struct dump_reader *r = data;

    if (r->pieces == 0)
        fprintf(out, "{\"dump\": %d, \"rest\": [0", r->number);
    fprintf(out, ",%d%*s", r->pieces, 16 * 1024, "\n");
    if (++r->pieces < PIECES)
        return 1;
    fputs("]}", out);
    return 0;
}

static void reader_done(void *data)
{
    __atomic_sub_fetch(&readers, 1, __ATOMIC_RELAXED);
    free(data);
}

static int open_dump(void *data, struct http_source *ret)
{
    struct dump_reader *r = calloc(1, sizeof(*r));

    cr_assert(r != NULL && data == &dumps);
    r->number = __atomic_load_n(&dumps, __ATOMIC_RELAXED);
    __atomic_add_fetch(&readers, 1, __ATOMIC_RELAXED);
    *ret = (struct http_source){next_piece, reader_done, r};
    return 0;
}

static void finish_dump(struct loop_timer *timer)
{
    admin_dump_done(admin, dump_token, open_dump, &dumps);
}

static void config_dump(void *data, struct admin *a, void *token)
{
    __atomic_add_fetch(&dumps, 1, __ATOMIC_RELAXED);
    dump_token = token;
    loop_timer_set(loop, &dump_timer, 100);
}

static void no_dump(void *data, struct admin *a, void *token)
{
    admin_dump_done(a, token, NULL, NULL);
}

static void write_metrics(void *data, FILE *out)
{
    cr_assert(data == &loop);
    fputs("# HELP a Text.\n# TYPE a counter\na_total 1\n", out);
}

static void write_pending(void *data, char *buf, size_t size)
{
    snprintf(buf, size, "%s", __atomic_load_n(&pending, __ATOMIC_RELAXED));
}

static void quit(void *data)
{
    __atomic_add_fetch(&quits, 1, __ATOMIC_RELAXED);
}

static bool owns_socket(void *data)
{
    cr_assert(data == &loop);
    return __atomic_load_n(&owner, __ATOMIC_RELAXED);
}

static cJSON *verdict(void *data, const char *identity, const struct endpoint *from,
                      const struct endpoint *to)
{
    char text[ENDPOINT_TEXT_LEN];
    cJSON *o;

    (void)data;
    if (to->port == 1)
        return NULL;
    o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "identity", identity);
    cJSON_AddStringToObject(o, "from", endpoint_format(from, text));
    cJSON_AddStringToObject(o, "to", endpoint_format(to, text));
    return o;
}

/* A port that nobody has just now. */
static uint16_t free_port(void)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6};
    socklen_t len = sizeof(sa);
    _cleanup_fd_ int fd = socket(AF_INET6, SOCK_STREAM, 0);

    cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
    cr_assert(getsockname(fd, (struct sockaddr *)&sa, &len) == 0);
    return ntohs(sa.sin6_port);
}

static void open_with(void (*dump)(void *, struct admin *, void *))
{
    struct admin_config config = {
        .unix_socket = path,
        .ipv6 = true,
        .config_dump = dump,
        .metrics = write_metrics,
        .pending = write_pending,
        .quit = quit,
        .owns_socket = owns_socket,
        .verdict = verdict,
        .data = &loop,
    };
    int r = -1;

    signal(SIGPIPE, SIG_IGN);
    log_set_filter("warn");
    snprintf(directory, sizeof(directory), "/tmp/admin-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    snprintf(path, sizeof(path), "%s/proxy.sock", directory);
    cr_assert(loop_new(&loop) == 0);
    loop_timer_init(&dump_timer, finish_dump);
    cr_assert(addr_parse("127.0.0.1", &pages.addr) == 0);
    metrics.addr = ready.addr = pages.addr;
    /* Somebody else may take a port in between. */
    for (int i = 0; r < 0 && i < 20; i++) {
        config.admin_port = pages.port = free_port();
        config.metrics_port = metrics.port = free_port();
        config.ready_port = ready.port = free_port();
        r = admin_open(loop, &config, &admin);
    }
    cr_assert(r == 0);
    thread = loop_thread_start(loop);
}

static void setup(void)
{
    open_with(config_dump);
}

static void teardown(void)
{
    loop_thread_stop(thread);
    loop_timer_cancel(&dump_timer);
    admin_close(&admin);
    loop_free(&loop);
    cr_expect(rmdir(directory) == 0);
}

TestSuite(admin, .init = setup, .fini = teardown, .timeout = 60);

/* "GET /x" to one of the servers; headers end each with CRLF. */
static char *ask(const struct endpoint *to, const char *request, const char *headers)
{
    char text[512];

    snprintf(text, sizeof(text), "%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", request, headers);
    return client_ask(to, text);
}

static void expect(const struct endpoint *to, const char *request, int status, const char *body)
{
    char *answer = ask(to, request, "");

    cr_expect(atoi(answer + 9) == status, "%s: %s", request, answer);
    if (body)
        cr_expect(!strcmp(client_body(answer), body), "%s: \"%s\"", request, client_body(answer));
    free(answer);
}

Test(admin, readiness)
{
    expect(&ready, "GET /healthz/ready", 200, "ready\n");
    __atomic_store_n(&pending, "state manager, workload proxy manager", __ATOMIC_RELAXED);
    expect(&ready, "GET /healthz/ready", 500, "not ready, pending: state manager, workload proxy manager\n");
    expect(&ready, "POST /healthz/ready", 405, NULL);
    expect(&ready, "HEAD /healthz/ready", 405, NULL);
    expect(&ready, "GET /", 404, NULL);
    expect(&ready, "GET /config_dump", 404, NULL);
}

Test(admin, metrics)
{
    char *answer = ask(&metrics, "GET /metrics", "Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n");

    cr_expect(strstr(answer, "\r\nContent-Type: text/plain; charset=utf-8\r\n") != NULL);
    cr_expect(!strcmp(client_body(answer), "# HELP a Text.\n# TYPE a counter\na_total 1\n# EOF\n"), "%s",
              answer);
    free(answer);
    answer = ask(&metrics, "GET /stats/prometheus",
                 "Accept: text/plain, "
                 "application/openmetrics-text;version=1.0.0,application/openmetrics-text;q=0.7\r\n");
    cr_expect(
        strstr(answer, "\r\nContent-Type: application/openmetrics-text;charset=utf-8;version=1.0.0\r\n") !=
        NULL);
    cr_expect(!strcmp(client_body(answer), "# HELP a Text.\n# TYPE a counter\na_total 1\n# EOF\n"), "%s",
              answer);
    free(answer);
    expect(&metrics, "GET /", 404, NULL);
    expect(&metrics, "GET /logging", 404, NULL);
}

Test(admin, index_and_unknown_pages)
{
    char *answer = ask(&pages, "GET /", "");

    cr_expect(strstr(answer, "\r\nContent-Type: text/html; charset=utf-8\r\n") != NULL);
    cr_expect(strstr(answer, "config_dump") != NULL);
    free(answer);
    expect(&pages, "GET /nothing", 404, NULL);
    expect(&pages, "GET /config_dump/", 404, NULL);
    expect(&pages, "GET /debug/pprof/heap", 404, NULL);
    expect(&pages, "GET /metrics", geteuid() == 0 ? 200 : 404, NULL); /* what brumactl reads is for root */
}

Test(admin, listens_on_ipv6_loopback_too)
{
    struct endpoint v6 = {.port = pages.port};

    if (access("/proc/net/if_inet6", F_OK) != 0)
        cr_skip("no IPv6 here");
    cr_assert(addr_parse("::1", &v6.addr) == 0);
    expect(&v6, "GET /", 200, NULL);
    v6.port = metrics.port;
    expect(&v6, "GET /metrics", 200, NULL);
    v6.port = ready.port;
    expect(&v6, "GET /healthz/ready", 200, NULL);
}

Test(admin, the_unix_socket_has_every_page)
{
    static const char *const requests[] = {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                           "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                           "GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                           "GET /config_dump HTTP/1.1\r\nHost: localhost\r\n\r\n"};
    int fd = client_connect_unix(path);

    cr_assert(fd >= 0);
    for (size_t i = 0; i < array_size(requests); i++) {
        char *answer;

        client_send(fd, requests[i]);
        answer = client_receive(fd, false, NULL);
        cr_expect(atoi(answer + 9) == 200, "%s: %s", requests[i], answer);
        free(answer);
    }
    close(fd);
}

static bool answers_within(int milliseconds)
{
    for (int i = 0; i <= milliseconds / 10; i++) {
        _cleanup_fd_ int fd = client_connect_unix(path);

        if (fd >= 0)
            return true;
        usleep(10000);
    }
    return false;
}

Test(admin, the_owner_takes_the_unix_socket_back_and_nobody_else_does)
{
    cr_assert(unlink(path) == 0);
    cr_expect(!answers_within(1500));
    __atomic_store_n(&owner, true, __ATOMIC_RELAXED);
    cr_expect(answers_within(5000));
}

Test(admin, verdicts)
{
    static const struct {
        const char *query;
        int status;
        const char *body;
    } cases[] = {
        {"?identity=spiffe%3A%2F%2Ftd%2Fns%2Fa%2Fsa%2Fb&from=10.0.0.1:1&to=10.0.0.2:80", 200,
         "{\"identity\":\"spiffe://td/ns/a/sa/b\",\"from\":\"10.0.0.1:1\",\"to\":\"10.0.0.2:80\"}"},
        {"?identity=&from=%5Bfd00::1%5D:1&to=[fd00::2]:80", 200,
         "{\"identity\":\"\",\"from\":\"[fd00::1]:1\",\"to\":\"[fd00::2]:80\"}"},
        {"?identity=&from=10.0.0.1:1&to=10.0.0.2:1", 404, NULL},
        {"", 400, NULL},
        {"?identity=&from=10.0.0.1:1", 400, NULL},
        {"?from=10.0.0.1:1&to=10.0.0.2:80", 400, NULL},
        {"?identity=&from=10.0.0.1&to=10.0.0.2:80", 400, NULL},
        {"?identity=&from=nobody:1&to=10.0.0.2:99999", 400, NULL},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        int fd = client_connect_unix(path);
        char request[256], *answer;

        cr_assert(fd >= 0);
        snprintf(request, sizeof(request), "GET /verdict%s HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 cases[i].query);
        client_send(fd, request);
        answer = client_receive(fd, false, NULL);
        cr_expect(atoi(answer + 9) == cases[i].status, "%s: %s", cases[i].query, answer);
        if (cases[i].body)
            cr_expect(!strcmp(client_body(answer), cases[i].body), "%s: %s", cases[i].query,
                      client_body(answer));
        free(answer);
        close(fd);
    }
    /* Of root, or of who the proxy runs as, which this is; test_brumactl_nodes.py asks as somebody else. */
    expect(&pages, "GET /verdict?identity=&from=10.0.0.1:1&to=10.0.0.2:80", 200, NULL);
    expect(&metrics, "GET /verdict?identity=&from=10.0.0.1:1&to=10.0.0.2:80", 404, NULL);
}

/* Everything up to the end of the connection, which is closed then. */
static char *receive_to_the_end(int fd)
{
    size_t size = 20u << 20, len = 0;
    char *buf = malloc(size);
    ssize_t n;

    cr_assert(buf != NULL);
    while ((n = recv(fd, buf + len, size - 1 - len, 0)) > 0)
        len += (size_t)n;
    buf[len] = '\0';
    close(fd);
    return buf;
}

static char *ask_to_the_end(const char *request)
{
    int fd = client_connect(&pages);

    cr_assert(fd >= 0);
    client_send(fd, request);
    return receive_to_the_end(fd);
}

/* Takes the text of an answer in chunks. */
static cJSON *parse_chunks(char *text)
{
    char *from = strstr(text, "\r\n\r\n") + 4, *to = text, *end;
    size_t len;
    cJSON *o;

    while ((len = strtoul(from, &end, 16)) > 0) {
        cr_assert(end > from && end[0] == '\r' && end[1] == '\n');
        memmove(to, end + 2, len);
        to += len;
        from = end + 2 + len;
        cr_assert(from[0] == '\r' && from[1] == '\n');
        from += 2;
    }
    cr_expect(!strcmp(from, "0\r\n\r\n"), "%.20s", from);
    *to = '\0';
    o = cJSON_Parse(text);
    free(text);
    return o;
}

static void expect_dump(cJSON *o)
{
    cr_assert(o != NULL);
    cr_expect(cJSON_GetArraySize(cJSON_GetObjectItem(o, "rest")) == PIECES + 1);
    cJSON_Delete(o);
}

Test(admin, config_dump)
{
    char *answer =
        ask_to_the_end("GET /config_dump HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");

    cr_expect(strstr(answer, "\r\nContent-Type: application/json\r\n") != NULL);
    cr_expect(strstr(answer, "\r\nTransfer-Encoding: chunked\r\n") != NULL);
    expect_dump(parse_chunks(answer));
    /* who does not know chunks sees the end of the connection */
    answer = ask_to_the_end("GET /config_dump HTTP/1.0\r\nHost: localhost\r\n\r\n");
    cr_expect(strstr(answer, "chunked") == NULL);
    expect_dump(cJSON_Parse(client_body(answer)));
    free(answer);
    answer = ask_to_the_end("HEAD /config_dump HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    cr_expect(!strncmp(answer, "HTTP/1.1 200 ", 13) && !*client_body(answer), "%s", answer);
    free(answer);
    cr_expect(__atomic_load_n(&readers, __ATOMIC_RELAXED) == 0);
}

/* The next request of the same connection is answered after it. */
Test(admin, a_dump_and_another_page)
{
    char *answer = ask_to_the_end("POST /config_dump HTTP/1.1\r\nHost: localhost\r\n\r\n"
                                  "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    char *end = strstr(answer, "\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n");

    cr_assert(end != NULL && strstr(end, "bruma-proxy"));
    end[7] = '\0';
    expect_dump(parse_chunks(answer));
}

/* What a client does not take is not made; others are answered, and what it waits for goes when it does. */
Test(admin, a_dump_that_nobody_takes)
{
    int fd = client_connect(&pages);

    client_send(fd, "GET /config_dump HTTP/1.1\r\nHost: localhost\r\n\r\n");
    while (!__atomic_load_n(&readers, __ATOMIC_RELAXED))
        usleep(1000);
    expect(&pages, "GET /", 200, NULL);
    cr_expect(__atomic_load_n(&readers, __ATOMIC_RELAXED) == 1);
    close(fd);
    for (int i = 0; i < 2000 && __atomic_load_n(&readers, __ATOMIC_RELAXED); i++)
        usleep(1000);
    cr_expect(__atomic_load_n(&readers, __ATOMIC_RELAXED) == 0);
}

/* Who asks while a dump is made gets the next one, and all who wait share it. */
Test(admin, dumps_asked_for_together_are_made_once)
{
    int fds[6];

    for (int i = 0; i < 6; i++) {
        fds[i] = client_connect(&pages);
        client_send(fds[i], "GET /config_dump HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        while (i == 0 && !__atomic_load_n(&dumps, __ATOMIC_RELAXED))
            usleep(1000);
    }
    for (int i = 0; i < 6; i++) {
        char *answer = receive_to_the_end(fds[i]);

        cr_expect(strstr(answer, "\"dump\"") != NULL);
        expect_dump(parse_chunks(answer));
    }
    cr_expect(__atomic_load_n(&dumps, __ATOMIC_RELAXED) <= 3, "%d", dumps);
}

Test(admin, closing_in_the_middle_of_a_dump)
{
    int fd = client_connect(&pages);

    client_send(fd, "GET /config_dump HTTP/1.1\r\nHost: localhost\r\n\r\n");
    while (!__atomic_load_n(&dumps, __ATOMIC_RELAXED))
        usleep(1000);
    close(fd);
}

Test(admin_failing, a_dump_that_cannot_be_made)
{
    open_with(no_dump);
    expect(&pages, "GET /config_dump", 500, NULL);
    expect(&pages, "GET /config_dump", 500, NULL);
    teardown();
}

Test(admin, quit)
{
    expect(&pages, "GET /quitquitquit", 405, NULL);
    cr_expect(__atomic_load_n(&quits, __ATOMIC_RELAXED) == 0);
    expect(&pages, "POST /quitquitquit", 200, "shutdown now\n");
    cr_expect(__atomic_load_n(&quits, __ATOMIC_RELAXED) == 1);
}

static void expect_refused(const char *request, const char *headers, bool refused)
{
    char text[512], *answer;

    snprintf(text, sizeof(text), "%s HTTP/1.1\r\n%s\r\n", request, headers);
    answer = client_ask(&pages, text);
    cr_expect_eq(!strncmp(answer, "HTTP/1.1 403 Forbidden\r\n", 24), refused, "%s -> %s", text, answer);
    free(answer);
}

Test(admin, other_hosts_and_other_pages_are_refused)
{
    static const char *const good[] = {"Host: localhost\r\n", "Host: LOCALHOST:15000\r\n",
                                       "Host: 127.0.0.1:1\r\n", "Host: [::1]:15000\r\n",
                                       "Host: localhost\r\nSec-Fetch-Site: same-origin\r\n"};
    static const char *const bad[] = {"Host: evil.example\r\n",
                                      "Host: localhost.evil.example\r\n",
                                      "Host: 127.0.0.1.evil.example:80\r\n",
                                      "Host: localhost\r\nOrigin: http://evil.example\r\n",
                                      "Host: localhost\r\nOrigin: null\r\n",
                                      "Host: localhost\r\nOrigin: http://localhost:15000\r\n",
                                      "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n"};
    static const char *const requests[] = {"GET /", "GET /config_dump", "POST /logging",
                                           "POST /quitquitquit"};

    for (size_t r = 0; r < array_size(requests); r++) {
        for (size_t i = 0; i < array_size(bad); i++)
            expect_refused(requests[r], bad[i], true);
        for (size_t i = 0; i < array_size(good) && r < 3; i++)
            expect_refused(requests[r], good[i], false);
    }
    cr_expect_eq(__atomic_load_n(&quits, __ATOMIC_RELAXED), 0);
}

Test(admin, log_levels)
{
    char *answer = ask(&pages, "GET /logging", "");

    cr_expect(!strncmp(answer, "HTTP/1.1 405", 12) && strstr(answer, "\r\nAllow: POST\r\n"), "%s", answer);
    free(answer);
    expect(&pages, "POST /logging", 200, "current log level is warn\n");
    expect(&pages, "POST /logging?level=xds%3Ddebug", 200, "current log level is warn,xds=debug\n");
    expect(&pages, "POST /logging?level=access:trace", 200,
           "current log level is warn,xds=debug,access=trace\n");
    expect(&pages, "POST /logging?level=ERROR,xds=off", 200,
           "current log level is error,xds=off,access=trace\n");
    cr_expect(log_enabled(LOG_LEVEL_TRACE, "access") && !log_enabled(LOG_LEVEL_ERROR, "xds") &&
              !log_enabled(LOG_LEVEL_WARN, "other"));
    expect(&pages, "POST /logging?level=info&reset", 200, "current log level is info\n");
    expect(&pages, "POST /logging?reset", 200, "current log level is warn\n");
    expect(&pages, "POST /logging?reset&level=a%3A%3Ab%3Ddebug", 200,
           "current log level is warn,a::b=debug\n");
    expect(&pages, "POST /logging?level=", 200, "current log level is warn,a::b=debug\n");
    expect(&pages, "POST /logging?level", 200, "current log level is warn,a::b=debug\n");
    expect(&pages, "POST /logging?level=&reset", 200, "current log level is warn\n");
}

Test(admin, bad_log_levels)
{
    static const char *const bad[] = {
        "level=loud",        "level=a=b=c", "level==debug", "other=1",         "level=%zz",
        "level=a%0Ab=debug", "level=a=",    "level=,,x",    "level=a%22=info",
    };
    char request[1024];

    for (size_t i = 0; i < array_size(bad); i++) {
        snprintf(request, sizeof(request), "POST /logging?%s", bad[i]);
        expect(&pages, request, 400, NULL);
    }
    expect(&pages, "POST /logging", 200, "current log level is warn\n");
}

/* ---- the filter by itself ---- */

Test(log_levels, the_last_word_counts)
{
    char merged[LOG_LEVELS_MAX], filter[LOG_LEVELS_MAX] = "info";

    for (int i = 0; i < 100; i++) {
        cr_assert(log_levels_merge(filter, i % 2 ? "xds=debug,warn" : "xds:info,error", merged) == 0);
        memcpy(filter, merged, sizeof(filter));
    }
    cr_expect(!strcmp(filter, "warn,xds=debug"), "%s", filter);
    cr_assert(log_levels_merge("info", "ztunnel::xds=debug,hickory_server::server=off", merged) == 0);
    cr_expect(!strcmp(merged, "info,xds=debug,hickory_server::server=off"), "%s", merged);
    cr_assert(log_levels_merge("info", "access:warning,xds=critical", merged) == 0);
    cr_expect(!strcmp(merged, "info,access=warn,xds=error"), "%s", merged);
}

Test(log_levels, limits)
{
    char merged[LOG_LEVELS_MAX] = "untouched", many[4096] = "";

    for (int i = 0; i < 40; i++)
        snprintf(many + strlen(many), sizeof(many) - strlen(many), "s%d=off,", i);
    cr_expect(log_levels_merge("info", many, merged) < 0);
    memset(many, 'a', 300);
    memcpy(many + 300, "=off", 5);
    cr_expect(log_levels_merge("info", many, merged) < 0);
    cr_expect(!strcmp(merged, "untouched"));
}
