/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server over real sockets, with clients that do not behave. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "tests/unit/lib/rpc/http_fixture.h"

TestSuite(http_hostile, .init = http_setup, .fini = http_teardown, .timeout = 60);

/* Two answers to one question are none, and what is no HTTP is not served. status: NULL where versions of the
 * library differ in what they say, or say nothing. */
Test(http_hostile, bad_forms)
{
    static const struct {
        const char *text, *status;
    } cases[] = {
        {"\x16\x03\x01\x02garbage", NULL}, /* TLS */
        {"\r\n\r\n\x01", NULL},
        {"{}\n\n", NULL},
        {"GET\r\n\r\n", NULL},
        {" GET / HTTP/1.1\r\n\r\n", NULL},
        {"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", NULL},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "400"},
        {"GET /hello\r\n\r\n", "400"},
        {"GET /hello http/1.1\r\nHost: a\r\n\r\n", "400"},
        {"PRI * HTTP/2.0\r\n\r\n", "505"},
        {"GET /hello HTTP/2.0\r\nHost: a\r\n\r\n", "505"},
        {"GET /hello HTTP/1.1\r\n\r\n", "400"}, /* no Host */
        {"GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
        {"GET /hello HTTP/1.1\r\nHost : a\r\n\r\n", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", "413"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "413"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"},
        {"POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "411"},
        {"POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", NULL},
        {"POST /hello HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", "417"},
        {"GET hello HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"G(T /hello HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\x01\r\n\r\n", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "400"},
        {"GET /hello HTTP/1.1\r\nHost: a\r\nX(: a\r\n\r\n", "400"},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        int fd = client_connect(&http_at);
        char *answer;

        client_send(fd, cases[i].text);
        answer = client_receive(fd, false, NULL);
        if (cases[i].status)
            cr_expect(!strncmp(answer, "HTTP/1.1 ", 9) && !strncmp(answer + 9, cases[i].status, 3),
                      "%s -> %s", cases[i].text, answer);
        else
            cr_expect(!*answer || !strncmp(answer, "HTTP/1.1 4", 10), "%s -> %s", cases[i].text, answer);
        cr_expect(client_ended(fd), "%s", cases[i].text);
        free(answer);
        close(fd);
    }
    http_expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
}

Test(http_hostile, too_much_of_a_head)
{
    static char request[100000];
    size_t len = (size_t)snprintf(request, sizeof(request), "GET /hello HTTP/1.1\r\nHost: a\r\nX: ");

    memset(request + len, 'a', sizeof(request) - len - 1);
    http_expect_status(request, "431");
    memset(request + 5, 'a', sizeof(request) - 6);
    http_expect_status(request, "414");
}

Test(http_hostile, a_slow_head_is_given_two_seconds)
{
    int fd = client_connect(&http_at);
    char *answer;

    client_send(fd, "GET /hello HTTP/1.1\r\nHost");
    answer = client_receive(fd, false, NULL);
    cr_expect(!strncmp(answer, "HTTP/1.1 408 ", 13), "%s", answer);
    cr_expect(client_ended(fd));
    free(answer);
    close(fd);
}

Test(http_hostile, somebody_who_says_nothing_is_closed)
{
    int fd = client_connect(&http_at);

    cr_expect(client_ended(fd));
    close(fd);
}

Test(http_hostile, connections_are_limited_and_idle_ones_give_way)
{
    int fds[HTTP_TEST_CONNECTIONS];

    for (int i = 0; i < HTTP_TEST_CONNECTIONS; i++) {
        fds[i] = client_connect(&http_at);
        client_send(fds[i], "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        free(client_receive(fds[i], false, NULL));
    }
    http_expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    cr_expect(client_ended(fds[0]), "the longest unused one went");
    close(fds[0]);
    /* All have asked and do not read: the oldest of them goes. */
    fds[0] = client_connect(&http_at);
    for (int i = 0; i < HTTP_TEST_CONNECTIONS; i++) {
        client_send(fds[i], "GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        usleep(10000);
    }
    usleep(300000);
    http_expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    cr_expect(http_server_turned_away(http_server) >= 1);
    for (int i = 0; i < HTTP_TEST_CONNECTIONS; i++)
        close(fds[i]);
}

Test(http_hostile, half_requests_give_way)
{
    static const char *const halves[] = {"", "GET /hello HTTP/1.1\r\nHost",
                                         "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"};
    int fds[HTTP_TEST_CONNECTIONS];

    for (size_t k = 0; k < array_size(halves); k++) {
        for (int i = 0; i < HTTP_TEST_CONNECTIONS; i++) {
            fds[i] = client_connect(&http_at);
            client_send(fds[i], halves[k]);
        }
        usleep(100000);
        for (int i = 0; i < 3; i++)
            http_expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
        for (int i = 0; i < 3; i++)
            cr_expect(client_ended(fds[i]), "the oldest first");
        for (int i = 0; i < HTTP_TEST_CONNECTIONS; i++)
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
        int s = client_connect(&http_at);

        if (s < 0)
            _exit(2);
        client_send(s, text);
    }
    sleep(30);
    _exit(3);
}

Test(http_hostile, a_user_has_a_share_of_his_own)
{
    int ours[HTTP_TEST_CONNECTIONS / 2], status = -1;
    pid_t pid;

    if (geteuid() != 0)
        cr_skip("needs root, to be somebody else too");
    for (int i = 0; i < HTTP_TEST_CONNECTIONS / 2; i++) {
        ours[i] = client_connect(&http_at);
        client_send(ours[i], "GET /hello HTTP/1.1\r\nHost");
    }
    usleep(50000);
    pid = nobody_holds(3 * HTTP_TEST_CONNECTIONS, "GET /hello HTTP/1.1\r\nHost");
    cr_assert(pid > 0);
    usleep(200000);
    /* Those that came in hundreds have pushed out each other, and not ours. */
    for (int i = 0; i < HTTP_TEST_CONNECTIONS / 2; i++) {
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

Test(http_hostile, a_reset_in_the_middle)
{
    struct linger now = {.l_onoff = 1};
    char *answer = strdup("");

    for (int i = 0; i < 50; i++) {
        int fd = client_connect(&http_at);

        cr_assert(fd >= 0);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        client_send(fd, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        close(fd);
    }
    /* While it still has connections to find out about it may be full. */
    for (int i = 0; i < 100 && !strstr(answer, "200 OK"); i++) {
        free(answer);
        usleep(50000);
        answer = client_ask(&http_at, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        cr_assert(answer != NULL);
    }
    cr_expect(strstr(answer, "200 OK") != NULL, "%s", answer);
    free(answer);
}
