/* SPDX-License-Identifier: Apache-2.0 */
/* What clients of the pages send: a server on a loop reads all of it and comes to an end with the connection;
 * what reaches a handler has a method and at most one Host. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/rpc/http_accept.h"
#include "lib/rpc/http_connection.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static struct http_server *server;

static void on_request(void *data, struct http_request *request)
{
    const char *host = http_header(request, "host");
    char value[64], text[256];

    (void)data;
    if (!http_request_source(request) || (http_has_query(request) && http_method_is(request, "")))
        abort();
    http_accepts(http_header(request, "accept"), "application/openmetrics-text", NULL);
    if (http_query(request, "level", value, sizeof(value)) < 0)
        value[0] = '\0';
    snprintf(text, sizeof(text), "%d %s %.64s\n", http_path_is(request, "/"), value, host ? host : "");
    http_respond_text(request, 200, text);
}

static void end_of_turn(void *data)
{
    (void)data;
    if (list_empty(&server->connections))
        loop_stop(loop);
}

static void set_up(void)
{
    if (loop_new(&loop) < 0 || http_server_new(loop, "fuzz", on_request, NULL, NULL, &server) < 0)
        abort();
    loop_set_turn_end(loop, end_of_turn, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct peer_source source = {0};
    int fds[2];

    if (!loop)
        set_up();
    if (size > 64 * 1024 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return 0;
    if (size && send(fds[0], data, size, MSG_NOSIGNAL) < 0)
        abort();
    shutdown(fds[0], SHUT_WR);
    if (http_connection_new(server, fds[1], &source) < 0 || loop_run(loop) < 0)
        abort();
    close(fds[0]);
    return 0;
}
