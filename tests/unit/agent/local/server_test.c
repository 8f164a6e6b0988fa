/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's socket: what a peer reads that is turned away in the middle of its messages. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/local/server.h"
#include "bruma/protocol.h"
#include "lib/message.h"
#include "lib/seqpacket.h"

static char directory[64], path[128], heard[2048];
static struct loop *loop;
static struct server *server;
static struct loop_timer pump;
static int messages, endings, turns, peer;

static void note(const char *what)
{
    size_t len = strlen(heard);

    snprintf(heard + len, sizeof(heard) - len, "%s;", what);
}

static void on_pump(struct loop_timer *timer)
{
    char buf[512];
    int fds[BRUMA_MESSAGE_FDS_MAX];
    size_t fds_len;
    ssize_t n = seqpacket_receive(peer, buf, sizeof(buf), fds, BRUMA_MESSAGE_FDS_MAX, &fds_len);

    if (n > 0)
        note(buf);
    else if (n != -EAGAIN)
        note(n ? strerror((int)-n) : "end");
    if ((n <= 0 && n != -EAGAIN) || ++turns == 1000)
        loop_stop(loop);
    else
        loop_timer_set(loop, timer, 5);
}

static void turn_away(struct local_connection *connection, const cJSON *message, int *fds, size_t fds_len)
{
    messages++;
    connection_send_error(connection, BRUMA_REASON_PROXY_NOT_CONNECTED, "others");
    connection_close(connection);
}

static void closed(struct local_connection *connection)
{
    endings++;
}

static const struct server_role role = {.name = "test", .message = turn_away, .closed = closed};

static const struct server_role *route(void *data, const char *op, void **ret_data)
{
    *ret_data = data;
    return strcmp(op, "hello") == 0 ? &role : NULL;
}

static void setup(void)
{
    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    snprintf(path, sizeof(path), "%s/agent.sock", directory);
    cr_assert(loop_new(&loop) == 0);
    cr_assert(server_open(loop, path, route, loop, &server) == 0);
    peer = seqpacket_connect(path, 1000, true);
    cr_assert(peer >= 0);
    loop_timer_init(&pump, on_pump);
    loop_timer_set(loop, &pump, 5);
}

static void teardown(void)
{
    close(peer);
    server_close(&server);
    loop_free(&loop);
    cr_expect(rmdir(directory) == 0);
}

TestSuite(agent_socket, .init = setup, .fini = teardown, .timeout = 30);

static void say(const char *text, const int *fds, size_t fds_len)
{
    cr_assert(seqpacket_send(peer, text, strlen(text), fds, fds_len) == 0, "%s", text);
}

/* All of it is in the agent's queue before the first is read; on Unix sockets a close would then reset the
 * peer. */
Test(agent_socket, who_is_turned_away_reads_why_whatever_it_has_sent_meanwhile)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    say("{\"op\":\"hello\"}", NULL, 0);
    for (int i = 0; i < 8; i++)
        say("{\"op\":\"more\"}", &fd, 1);
    cr_assert(loop_run(loop) == 0);
    cr_expect(
        strcmp(heard, "{\"op\":\"error\",\"reason\":\"proxy_not_connected\",\"error\":\"others\"};end;") == 0,
        "%s", heard);
    cr_expect_eq(messages, 1);
    cr_expect_eq(endings, 1);
    close(fd);
}

Test(agent_socket, what_is_no_message_is_refused_by_a_reason_that_arrives)
{
    say("{}", NULL, 0);
    for (int i = 0; i < 8; i++)
        say("{\"op\":\"more\"}", NULL, 0);
    cr_assert(loop_run(loop) == 0);
    cr_expect(strstr(heard, "message_invalid") && strstr(heard, ";end"), "%s", heard);
    cr_expect_eq(endings, 0);
}

/* The role has let go of it; what the peer says after its end is read and dropped. */
Test(agent_socket, a_peer_that_talks_on_is_read_to_its_end)
{
    say("{\"op\":\"hello\"}", NULL, 0);
    cr_assert(loop_run(loop) == 0);
    cr_expect(strstr(heard, ";end"), "%s", heard);
    cr_expect_eq(endings, 1);
    say("{\"op\":\"hello\"}", NULL, 0);
    loop_timer_set(loop, &pump, 50);
    cr_assert(loop_run(loop) == 0);
    say("{\"op\":\"hello\"}", NULL, 0);
    cr_expect_eq(messages, 1);
}
