/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server over real sockets, with clients that behave and clients that do not. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/cleanup.h"
#include "lib/rpc/http_server.h"
#include "lib/rpc/peer_source.h"
#include "tests/unit/lib/rpc/http_client.h"

#define LARGE           (8u * 1024 * 1024)
#define MAX_CONNECTIONS 8

static const struct http_limits limits = {.connections = MAX_CONNECTIONS, .per_source = MAX_CONNECTIONS};

static struct loop *loop;
static struct http_server *server;
static struct loop_thread *thread;
static struct endpoint at;

/* "/later" is answered by a timer. */
static struct http_request *late;
static struct loop_timer late_timer;
static int late_began; /* atomic */

static void answer_late(struct loop_timer *timer)
{
    http_respond_text(take_pointer(late), 200, "late\n");
}

static void large(struct http_request *request)
{
    struct http_answer answer = {.status = 200, .compress = true};
    char *body = malloc(LARGE);

    cr_assert(body != NULL);
    memset(body, 'x', LARGE);
    http_respond(request, &answer, body, LARGE);
}

static void on_request(void *data, struct http_request *request)
{
    cr_assert(data == &at);
    if (http_path_is(request, "/hello")) {
        http_respond_text(request, 200, "hello\n");
    } else if (http_path_is(request, "/large")) {
        large(request);
    } else if (http_path_is(request, "/later") && !late) {
        late = request;
        loop_timer_set(loop, &late_timer, 100);
        __atomic_store_n(&late_began, 1, __ATOMIC_RELEASE);
    } else if (http_path_is(request, "/empty")) {
        http_respond(request, &(struct http_answer){.status = 200}, NULL, 0);
    } else if (http_path_is(request, "/quit")) {
        http_respond_text(request, 200, "bye\n");
        http_server_close(&server);
    } else {
        http_respond_text(request, 404, "not found\n");
    }
}

static void setup(void)
{
    struct endpoint any = {};

    signal(SIGPIPE, SIG_IGN);
    cr_assert(addr_parse("127.0.0.1", &any.addr) == 0);
    cr_assert(loop_new(&loop) == 0);
    loop_timer_init(&late_timer, answer_late);
    cr_assert(http_server_new(loop, "test", on_request, &at, &limits, &server) == 0);
    cr_assert(http_server_listen(server, &any, false, &at) == 0);
    cr_assert(at.port != 0);
    thread = loop_thread_start(loop);
}

static void teardown(void)
{
    loop_thread_stop(thread);
    http_server_close(&server);
    if (late) {
        loop_timer_cancel(&late_timer);
        answer_late(&late_timer); /* nobody hears it */
    }
    loop_free(&loop);
}

TestSuite(http_server, .init = setup, .fini = teardown, .timeout = 60);

static void expect_status(const char *request, const char *status)
{
    char *answer = client_ask(&at, request);

    cr_expect(!strncmp(answer, "HTTP/1.1 ", 9) && !strncmp(answer + 9, status, strlen(status)),
              "%.60s -> %.60s", request, answer);
    free(answer);
}

Test(http_server, answers)
{
    char *answer = client_ask(&at, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");

    cr_expect(!strncmp(answer, "HTTP/1.1 200 OK\r\n", 17));
    cr_expect(strstr(answer, "\r\nContent-Length: 6\r\n") != NULL);
    cr_expect(strstr(answer, "\r\nContent-Type: text/plain; charset=utf-8\r\n") != NULL);
    cr_expect(strstr(answer, "\r\nDate: ") != NULL);
    cr_expect(!strcmp(client_body(answer), "hello\n"));
    free(answer);
    expect_status("GET /other HTTP/1.1\r\nHost: a\r\n\r\n", "404");
    expect_status("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n", "200");
}

Test(http_server, keeps_the_connection)
{
    int fd = client_connect(&at);

    cr_assert(fd >= 0);
    for (int i = 0; i < 50; i++) {
        char *answer;

        client_send(fd, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        answer = client_receive(fd, false, NULL);
        cr_assert(!strcmp(client_body(answer), "hello\n"), "%d: %s", i, answer);
        free(answer);
    }
    close(fd);
}

Test(http_server, closes_when_asked)
{
    int fd = client_connect(&at);
    char *answer;

    client_send(fd, "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    answer = client_receive(fd, false, NULL);
    cr_expect(strstr(answer, "\r\nConnection: close\r\n") != NULL);
    cr_expect(client_ended(fd));
    free(answer);
    close(fd);
}

Test(http_server, pipelined_requests_are_answered_in_order)
{
    static char requests[64 * 1024];
    int fd = client_connect(&at), count = 200;
    size_t len = 0;

    for (int i = 0; i < count; i++)
        len += (size_t)snprintf(requests + len, sizeof(requests) - len, "GET /%s HTTP/1.1\r\nHost: a\r\n\r\n",
                                i % 2 ? "hello" : "other");
    client_send(fd, requests);
    for (int i = 0; i < count; i++) {
        char *answer = client_receive(fd, false, NULL);

        cr_assert(!strncmp(answer + 9, i % 2 ? "200" : "404", 3), "%d: %.80s", i, answer);
        free(answer);
    }
    close(fd);
}

Test(http_server, a_request_may_come_in_pieces)
{
    static const char request[] = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    int fd = client_connect(&at);
    char *answer;

    for (const char *c = request; *c; c++) {
        char one[2] = {*c, '\0'};

        client_send(fd, one);
        usleep(1000);
    }
    answer = client_receive(fd, false, NULL);
    cr_expect(!strcmp(client_body(answer), "hello\n"));
    free(answer);
    close(fd);
}

Test(http_server, bodies_of_requests_are_skipped)
{
    static char request[70 * 1024];
    int fd = client_connect(&at);
    char *answer;
    size_t len;

    len = (size_t)snprintf(request, sizeof(request),
                           "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n");
    memset(request + len, 'G', 65536);
    snprintf(request + len + 65536, sizeof(request) - len - 65536, "GET /other HTTP/1.1\r\nHost: a\r\n\r\n");
    client_send(fd, request);
    answer = client_receive(fd, false, NULL);
    cr_expect(!strncmp(answer, "HTTP/1.1 200", 12), "%s", answer);
    free(answer);
    answer = client_receive(fd, false, NULL);
    cr_expect(!strncmp(answer, "HTTP/1.1 404", 12), "%s", answer);
    free(answer);
    close(fd);
    expect_status("POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", "413");
    expect_status("POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "411");
    expect_status("POST /hello HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
                  "200");
}

Test(http_server, head_has_no_body)
{
    int fd = client_connect(&at);
    char *answer;

    client_send(fd, "HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    answer = client_receive(fd, true, NULL);
    cr_expect(strstr(answer, "\r\nContent-Length: 6\r\n") != NULL);
    free(answer);
    answer = client_receive(fd, false, NULL);
    cr_expect(!strncmp(answer, "HTTP/1.1 200", 12), "%s", answer);
    free(answer);
    close(fd);
}

Test(http_server, an_answer_may_come_later)
{
    char *answer = client_ask(&at, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");

    cr_expect(!strcmp(client_body(answer), "late\n"));
    free(answer);
}

Test(http_server, a_client_that_left_before_its_late_answer)
{
    int fd = client_connect(&at);

    client_send(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    while (!__atomic_load_n(&late_began, __ATOMIC_ACQUIRE))
        usleep(1000);
    shutdown(fd, SHUT_RDWR);
    close(fd);
    usleep(200000);
    expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
}

Test(http_server, half_closed_clients_are_answered)
{
    int fd = client_connect(&at);
    char *answer;

    client_send(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    shutdown(fd, SHUT_WR);
    answer = client_receive(fd, false, NULL);
    cr_expect(!strcmp(client_body(answer), "late\n"), "%s", answer);
    free(answer);
    close(fd);
}

Test(http_server, a_large_answer_arrives_whole)
{
    int fd = client_connect(&at);
    size_t len, size = 0;
    char *answer;

    client_send(fd, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    answer = client_receive(fd, false, &len);
    size = strspn(client_body(answer), "x");
    cr_expect(size == LARGE, "%zu", size);
    free(answer);
    close(fd);
}

Test(http_server, gzip)
{
    static char plain[LARGE];
    int fd = client_connect(&at);
    z_stream z = {};
    const char *body;
    size_t len;
    char *answer;

    client_send(fd, "GET /large HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br, gzip\r\n\r\n");
    answer = client_receive(fd, false, &len);
    cr_expect(strstr(answer, "\r\nContent-Encoding: gzip\r\n") != NULL);
    cr_expect(strstr(answer, "\r\nVary: Accept-Encoding\r\n") != NULL);
    body = client_body(answer);
    cr_assert(inflateInit2(&z, 31) == Z_OK);
    z.next_in = (Bytef *)(uintptr_t)body;
    z.avail_in = (uInt)(len - (size_t)(body - answer));
    z.next_out = (Bytef *)plain;
    z.avail_out = sizeof(plain);
    cr_expect(inflate(&z, Z_FINISH) == Z_STREAM_END);
    cr_expect(z.total_out == LARGE);
    cr_expect(plain[0] == 'x' && plain[LARGE - 1] == 'x');
    inflateEnd(&z);
    free(answer);
    close(fd);
    answer = client_ask(&at, "GET /hello HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    cr_expect(!strcmp(client_body(answer), "hello\n"), "little is not worth it");
    free(answer);
}

/* ---- clients that do not behave ---- */

Test(http_server, garbage_is_refused_and_the_connection_closed)
{
    static const char *const garbage[] = {"\x16\x03\x01\x02garbage", "\r\n\r\n\x01", "GET\r\n\r\n", "{}\n\n",
                                          "GET / HTTP/1.1\r\nbad header\r\n\r\n"};

    for (size_t i = 0; i < array_size(garbage); i++) {
        int fd = client_connect(&at);
        char *answer;

        client_send(fd, garbage[i]);
        answer = client_receive(fd, false, NULL);
        cr_expect(!strncmp(answer, "HTTP/1.1 400 ", 13), "%zu: %s", i, answer);
        cr_expect(client_ended(fd));
        free(answer);
        close(fd);
    }
    expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
}

Test(http_server, too_much_of_a_head)
{
    static char request[100000];
    size_t len = (size_t)snprintf(request, sizeof(request), "GET /hello HTTP/1.1\r\nHost: a\r\nX: ");

    memset(request + len, 'a', sizeof(request) - len - 1);
    expect_status(request, "431");
    memset(request + 5, 'a', sizeof(request) - 6);
    expect_status(request, "414");
}

Test(http_server, a_slow_head_is_given_two_seconds)
{
    int fd = client_connect(&at);
    char *answer;

    client_send(fd, "GET /hello HTTP/1.1\r\nHost");
    answer = client_receive(fd, false, NULL);
    cr_expect(!strncmp(answer, "HTTP/1.1 408 ", 13), "%s", answer);
    cr_expect(client_ended(fd));
    free(answer);
    close(fd);
}

Test(http_server, somebody_who_says_nothing_is_closed)
{
    int fd = client_connect(&at);

    cr_expect(client_ended(fd));
    close(fd);
}

Test(http_server, connections_are_limited_and_idle_ones_give_way)
{
    int fds[MAX_CONNECTIONS];

    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        fds[i] = client_connect(&at);
        client_send(fds[i], "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        free(client_receive(fds[i], false, NULL));
    }
    expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    cr_expect(client_ended(fds[0]), "the longest unused one went");
    close(fds[0]);
    /* All have asked and do not read: the oldest of them goes. */
    fds[0] = client_connect(&at);
    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        client_send(fds[i], "GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        usleep(10000);
    }
    usleep(300000);
    expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    cr_expect(http_server_turned_away(server) >= 1);
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        close(fds[i]);
}

Test(http_server, half_requests_give_way)
{
    static const char *const halves[] = {"", "GET /hello HTTP/1.1\r\nHost",
                                         "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"};
    int fds[MAX_CONNECTIONS];

    for (size_t k = 0; k < array_size(halves); k++) {
        for (int i = 0; i < MAX_CONNECTIONS; i++) {
            fds[i] = client_connect(&at);
            client_send(fds[i], halves[k]);
        }
        usleep(100000);
        for (int i = 0; i < 3; i++)
            expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
        for (int i = 0; i < 3; i++)
            cr_expect(client_ended(fds[i]), "the oldest first");
        for (int i = 0; i < MAX_CONNECTIONS; i++)
            close(fds[i]);
    }
}

/* Connects and sends from another user, and holds that until it is killed. */
static pid_t nobody_holds(int count, const char *text)
{
    pid_t pid = fork();

    if (pid)
        return pid;
    if (setuid(65534) < 0)
        _exit(1);
    for (int i = 0; i < count; i++) {
        int s = client_connect(&at);

        if (s < 0)
            _exit(2);
        client_send(s, text);
    }
    sleep(30);
    _exit(3);
}

Test(http_server, a_user_has_a_share_of_his_own)
{
    int ours[MAX_CONNECTIONS / 2], status = -1;
    pid_t pid;

    if (geteuid() != 0)
        cr_skip("needs root, to be somebody else too");
    for (int i = 0; i < MAX_CONNECTIONS / 2; i++) {
        ours[i] = client_connect(&at);
        client_send(ours[i], "GET /hello HTTP/1.1\r\nHost");
    }
    usleep(50000);
    pid = nobody_holds(3 * MAX_CONNECTIONS, "GET /hello HTTP/1.1\r\nHost");
    cr_assert(pid > 0);
    usleep(200000);
    /* Those that came in hundreds have pushed out each other, and not ours. */
    for (int i = 0; i < MAX_CONNECTIONS / 2; i++) {
        char *answer;

        client_send(ours[i], ": a\r\n\r\n");
        answer = client_receive(ours[i], false, NULL);
        cr_expect(!strncmp(answer, "HTTP/1.1 200", 12), "%d: %s", i, answer);
        free(answer);
        close(ours[i]);
    }
    cr_assert(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
    cr_expect(WIFSIGNALED(status), "it held them to the end");
}

/* One end of a connection over loopback whose other end uid has made. */
static int accepted_from(uid_t uid, bool closes, const struct endpoint *to, int listener)
{
    int fd;
    pid_t pid = fork();

    if (!pid) {
        if (setuid(uid) < 0)
            _exit(1);
        fd = client_connect(to);
        if (!closes)
            usleep(500000);
        _exit(fd < 0);
    }
    if (closes)
        waitpid(pid, NULL, 0);
    fd = accept(listener, NULL, NULL);
    cr_assert(fd >= 0);
    return fd;
}

Test(peer_source, says_whose_socket_it_is, .timeout = 30)
{
    static const char *const addresses[] = {"127.0.0.1", "127.9.9.9", "::1"};
    struct peer_source root, nobody, gone;

    if (geteuid() != 0)
        cr_skip("needs root, to be somebody else too");
    for (size_t i = 0; i < array_size(addresses); i++) {
        struct endpoint to = {0};
        struct sockaddr_storage sa;
        socklen_t len;
        int listener, fd, r;

        cr_assert(addr_parse(addresses[i], &to.addr) == 0);
        r = endpoint_to_sockaddr(&to, AF_UNSPEC, &sa);
        listener = socket(sa.ss_family, SOCK_STREAM, 0);
        cr_assert(bind(listener, (struct sockaddr *)&sa, (socklen_t)r) == 0 && listen(listener, 8) == 0);
        len = sizeof(sa);
        cr_assert(getsockname(listener, (struct sockaddr *)&sa, &len) == 0);
        cr_assert(endpoint_from_sockaddr((struct sockaddr *)&sa, &to) == 0);

        fd = accepted_from(0, false, &to, listener);
        peer_source_get(fd, &root);
        cr_expect(root.is_user && root.uid == 0, "%s", addresses[i]);
        close(fd);
        fd = accepted_from(65534, false, &to, listener);
        peer_source_get(fd, &nobody);
        cr_expect(nobody.is_user && nobody.uid == 65534, "%s", addresses[i]);
        cr_expect_not(peer_source_equal(&root, &nobody));
        close(fd);
        /* The kernel says 0 of a socket that nobody has any more. */
        fd = accepted_from(65534, true, &to, listener);
        peer_source_get(fd, &gone);
        cr_expect_not(gone.is_user, "%s", addresses[i]);
        cr_expect_not(peer_source_equal(&gone, &root));
        close(fd);
        close(listener);
    }
}

Test(http_server, a_reset_in_the_middle)
{
    struct linger now = {.l_onoff = 1};
    char *answer = strdup("");

    for (int i = 0; i < 50; i++) {
        int fd = client_connect(&at);

        cr_assert(fd >= 0);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        client_send(fd, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        close(fd);
    }
    /* While it still has connections to find out about it may be full. */
    for (int i = 0; i < 100 && !strstr(answer, "200 OK"); i++) {
        free(answer);
        usleep(50000);
        answer = client_ask(&at, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        cr_assert(answer != NULL);
    }
    cr_expect(strstr(answer, "200 OK") != NULL, "%s", answer);
    free(answer);
}

Test(http_server, may_be_closed_by_its_own_handler)
{
    char *answer =
        client_ask(&at, "GET /quit HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");

    free(answer);
    cr_expect(client_connect(&at) < 0);
}

Test(http_server, a_port_in_use_is_an_error)
{
    struct endpoint bound = {};

    cr_expect(http_server_listen(server, &at, false, &bound) == -EADDRINUSE);
    cr_expect(bound.port == 0, "not written on failure");
}

/* ---- listeners; these tests start the thread themselves ---- */

static void listen_setup(void)
{
    signal(SIGPIPE, SIG_IGN);
    cr_assert(loop_new(&loop) == 0);
    cr_assert(http_server_new(loop, "test", on_request, &at, NULL, &server) == 0);
}

static void listen_teardown(void)
{
    http_server_close(&server);
    loop_free(&loop);
}

TestSuite(http_listen, .init = listen_setup, .fini = listen_teardown, .timeout = 60);

static void expect_served_at(const char *path)
{
    char *answer;
    int fd;

    thread = loop_thread_start(loop);
    fd = client_connect_unix(path);
    cr_assert(fd >= 0);
    client_send(fd, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    answer = client_receive(fd, false, NULL);
    cr_expect(!strcmp(client_body(answer), "hello\n"));
    free(answer);
    close(fd);
    loop_thread_stop(thread);
}

Test(http_listen, unix_sockets_take_the_place_of_older_ones)
{
    char directory[] = "/tmp/http-server-XXXXXX", path[64];
    struct http_server *old;
    struct stat st;

    cr_assert(mkdtemp(directory) != NULL);
    snprintf(path, sizeof(path), "%s/sock", directory);
    cr_assert(http_server_new(loop, "test", on_request, &at, NULL, &old) == 0);
    cr_assert(http_server_listen_unix(old, path, 0600) == 0);
    cr_assert(http_server_listen_unix(server, path, 0600) == 0);
    cr_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    http_server_close(&old);
    cr_expect(access(path, F_OK) == 0, "it is no longer the old one's to remove");
    expect_served_at(path);
    http_server_close(&server);
    cr_expect(access(path, F_OK) != 0 && errno == ENOENT);
    cr_expect(rmdir(directory) == 0);
}

static int open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int n = 0;

    cr_assert(directory != NULL);
    while (readdir(directory))
        n++;
    closedir(directory);
    return n;
}

Test(http_listen, a_unix_socket_that_another_has_taken_is_taken_back)
{
    char directory[] = "/tmp/http-server-XXXXXX", path[64];
    struct http_server *other;
    int before;

    cr_assert(mkdtemp(directory) != NULL);
    snprintf(path, sizeof(path), "%s/sock", directory);
    cr_assert(http_server_listen_unix(server, path, 0600) == 0);
    before = open_descriptors();
    cr_assert(http_server_new(loop, "test", on_request, &at, NULL, &other) == 0);
    cr_assert(http_server_listen_unix(other, path, 0600) == 0);
    cr_assert(http_server_listen_unix(server, path, 0600) == 0);
    http_server_close(&other);
    cr_expect(access(path, F_OK) == 0);
    cr_expect(open_descriptors() == before, "the former listener is closed");
    expect_served_at(path);
    http_server_close(&server);
    cr_expect(rmdir(directory) == 0);
}

Test(http_listen, bad_unix_paths)
{
    char path[256];

    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    cr_expect(http_server_listen_unix(server, path, 0600) == -ENAMETOOLONG);
    cr_expect(http_server_listen_unix(server, "/nonexistent/directory/sock", 0600) == -ENOENT);
}

static void expect_served(const char *address, uint16_t port)
{
    struct endpoint to = {.port = port};
    char *answer;

    cr_assert(addr_parse(address, &to.addr) == 0);
    answer = client_ask(&to, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    cr_expect(!strcmp(client_body(answer), "hello\n"), "%s", address);
    free(answer);
}

Test(http_listen, wildcards)
{
    struct endpoint both, only_v4;

    cr_assert(http_server_listen_any(server, 0, true, &both) == 0);
    cr_assert(http_server_listen_any(server, 0, false, &only_v4) == 0);
    thread = loop_thread_start(loop);
    expect_served("127.0.0.1", both.port);
    expect_served("127.0.0.1", only_v4.port);
    if (!addr_is_v4(&both.addr))
        expect_served("::1", both.port);
    loop_thread_stop(thread);
}
