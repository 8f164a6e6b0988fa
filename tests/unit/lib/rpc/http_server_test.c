/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server over real sockets, with clients that behave. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "tests/unit/lib/rpc/http_fixture.h"

TestSuite(http_server, .init = http_setup, .fini = http_teardown, .timeout = 60);

Test(http_server, answers)
{
    char *answer = client_ask(&http_at, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");

    cr_expect(!strncmp(answer, "HTTP/1.1 200 OK\r\n", 17));
    cr_expect(strstr(answer, "\r\nContent-Length: 6\r\n") != NULL);
    cr_expect(strstr(answer, "\r\nContent-Type: text/plain; charset=utf-8\r\n") != NULL);
    cr_expect(strstr(answer, "\r\nDate: ") != NULL);
    cr_expect(!strcmp(client_body(answer), "hello\n"));
    free(answer);
    http_expect_status("GET /other HTTP/1.1\r\nHost: a\r\n\r\n", "404");
    http_expect_status("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n", "200");
}

Test(http_server, keeps_the_connection)
{
    int fd = client_connect(&http_at);

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
    int fd = client_connect(&http_at);
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
    int fd = client_connect(&http_at), count = 200;
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
    int fd = client_connect(&http_at);
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
    int fd = client_connect(&http_at);
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
    http_expect_status("POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", "413");
    http_expect_status("POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                       "411");
    http_expect_status("POST /hello HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
                       "100");
}

Test(http_server, head_has_no_body)
{
    int fd = client_connect(&http_at);
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
    char *answer = client_ask(&http_at, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");

    cr_expect(!strcmp(client_body(answer), "late\n"));
    free(answer);
}

Test(http_server, a_client_that_left_before_its_late_answer)
{
    int fd = client_connect(&http_at);

    client_send(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    while (!__atomic_load_n(&http_late_began, __ATOMIC_ACQUIRE))
        usleep(1000);
    shutdown(fd, SHUT_RDWR);
    close(fd);
    usleep(200000);
    http_expect_status("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "200");
}

Test(http_server, half_closed_clients_are_answered)
{
    int fd = client_connect(&http_at);
    char *answer;

    client_send(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    shutdown(fd, SHUT_WR);
    answer = client_receive(fd, false, NULL);
    cr_expect(!strcmp(client_body(answer), "late\n"), "%s", answer);
    cr_expect(client_ended(fd), "and closed, though they would be kept");
    free(answer);
    close(fd);
}

Test(http_server, half_closed_clients_get_all_answers)
{
    int fd = client_connect(&http_at);

    client_send(fd, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /other HTTP/1.1\r\nHost: a\r\n\r\n");
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < 2; i++) {
        char *answer = client_receive(fd, false, NULL);

        cr_expect(!strncmp(answer + 9, i ? "404" : "200", 3), "%s", answer);
        free(answer);
    }
    cr_expect(client_ended(fd));
    close(fd);
}

Test(http_server, a_large_answer_arrives_whole)
{
    int fd = client_connect(&http_at);
    size_t len, size = 0;
    char *answer;

    client_send(fd, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    answer = client_receive(fd, false, &len);
    size = strspn(client_body(answer), "x");
    cr_expect(size == HTTP_TEST_LARGE, "%zu", size);
    free(answer);
    close(fd);
}

Test(http_server, gzip)
{
    static char plain[HTTP_TEST_LARGE];
    int fd = client_connect(&http_at);
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
    cr_expect(z.total_out == HTTP_TEST_LARGE);
    cr_expect(plain[0] == 'x' && plain[HTTP_TEST_LARGE - 1] == 'x');
    inflateEnd(&z);
    free(answer);
    close(fd);
    answer = client_ask(&http_at, "GET /hello HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    cr_expect(!strcmp(client_body(answer), "hello\n"), "little is not worth it");
    free(answer);
}

Test(http_server, may_be_closed_by_its_own_handler)
{
    char *answer =
        client_ask(&http_at, "GET /quit HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");

    free(answer);
    cr_expect(client_connect(&http_at) < 0);
}

Test(http_server, a_port_in_use_is_an_error)
{
    struct endpoint bound = {};

    cr_expect(http_server_listen(http_server, &http_at, false, &bound) == -EADDRINUSE);
    cr_expect(bound.port == 0, "not written on failure");
}
