/* SPDX-License-Identifier: Apache-2.0 */
/* Where the HTTP server listens. These tests start the thread themselves. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/lib/rpc/http_fixture.h"

static struct loop_thread *thread;

static void listen_setup(void)
{
    signal(SIGPIPE, SIG_IGN);
    cr_assert(loop_new(&http_loop) == 0);
    cr_assert(http_server_new(http_loop, "test", http_test_request, &http_at, NULL, &http_server) == 0);
}

static void listen_teardown(void)
{
    http_server_close(&http_server);
    loop_free(&http_loop);
}

TestSuite(http_listen, .init = listen_setup, .fini = listen_teardown, .timeout = 60);

static void expect_served_at(const char *path)
{
    char *answer;
    int fd;

    thread = loop_thread_start(http_loop);
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
    cr_assert(http_server_new(http_loop, "test", http_test_request, &http_at, NULL, &old) == 0);
    cr_assert(http_server_listen_unix(old, path, 0600) == 0);
    cr_assert(http_server_listen_unix(http_server, path, 0600) == 0);
    cr_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    http_server_close(&old);
    cr_expect(access(path, F_OK) == 0, "it is no longer the old one's to remove");
    expect_served_at(path);
    http_server_close(&http_server);
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
    cr_assert(http_server_listen_unix(http_server, path, 0600) == 0);
    before = open_descriptors();
    cr_assert(http_server_new(http_loop, "test", http_test_request, &http_at, NULL, &other) == 0);
    cr_assert(http_server_listen_unix(other, path, 0600) == 0);
    cr_assert(http_server_listen_unix(http_server, path, 0600) == 0);
    http_server_close(&other);
    cr_expect(access(path, F_OK) == 0);
    cr_expect(open_descriptors() == before, "the former listener is closed");
    expect_served_at(path);
    http_server_close(&http_server);
    cr_expect(rmdir(directory) == 0);
}

Test(http_listen, bad_unix_paths)
{
    char path[256];

    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    cr_expect(http_server_listen_unix(http_server, path, 0600) == -ENAMETOOLONG);
    cr_expect(http_server_listen_unix(http_server, "/nonexistent/directory/sock", 0600) == -ENOENT);
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

    cr_assert(http_server_listen_any(http_server, 0, true, &both) == 0);
    cr_assert(http_server_listen_any(http_server, 0, false, &only_v4) == 0);
    thread = loop_thread_start(http_loop);
    expect_served("127.0.0.1", both.port);
    expect_served("127.0.0.1", only_v4.port);
    if (!addr_is_v4(&both.addr))
        expect_served("::1", both.port);
    loop_thread_stop(thread);
}
