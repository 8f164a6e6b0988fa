/* SPDX-License-Identifier: Apache-2.0 */
/* Tunnels as releases have once written them, which all later ones must take on. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/connection/inbound.h"
#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel_frames.h"
#include "proxy/hbone/tunnel_move.h"
#include "tests/unit/proxy/connection/pending_scene.h"
#include "tests/unit/proxy/golden.h"

TestSuite(move_golden, .init = scene_begin, .fini = scene_end, .timeout = 60);

#define SOCKETS_MAX 4

static int near[SOCKETS_MAX], far[SOCKETS_MAX];

/* It is the worker's, with its sockets, whose other ends are the test's. */
static void arrive(const char *name, size_t sockets)
{
    struct tunnel_arrival *arrival = NULL;
    char error[200] = "";
    uint8_t *data;
    size_t len;

    mesh_knows_the_pod(NULL);
    for (size_t i = 0; i < sockets; i++) {
        int fds[2];

        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
        near[i] = fds[0];
        far[i] = fds[1];
    }
    golden_read(name, &data, &len);
    cr_assert(tunnel_arrival_read(world.worker, data, len, near, sockets, inbound_begin, &arrival, error,
                                  sizeof(error)) == 0,
              "%s", error);
    tunnel_arrive(world.worker, arrival);
    free(data);
}

static void leave(size_t sockets)
{
    for (size_t i = 0; i < sockets; i++)
        close(far[i]);
    world_until(none_left, "all of it ends");
}

WORLD_TEST(move_golden, server)
{
    char text[16] = "";
    struct tunnel *t;
    struct stream *s;

    arrive("tunnel-server.hex", 3);
    t = list_first(&world.wp->servers, struct tunnel, node);
    cr_assert(t->server && t->state == TUNNEL_OPEN && t->streams_len == 2);
    cr_expect_str_eq(t->tls.peer_identity, "spiffe://cluster.local/ns/shop/sa/web");
    cr_expect(t->goaway && t->goaway_heard && !t->goaway_said && t->ping_sent && t->last_stream == 9);
    cr_expect(t->unknown_windows[0] == 65535 && t->reset_stream == 3);
    cr_expect(tunnel_frames_find_closed(t, 3)->by_peer && !tunnel_frames_find_closed(t, 9)->by_peer);
    cr_expect(t->frames.in_data && t->frames.left == 400);
    cr_expect(nghttp2_session_get_remote_window_size(t->session) == 60000);
    cr_expect(nghttp2_session_get_effective_local_window_size(t->session) == 16777216);
    cr_expect(nghttp2_session_get_remote_settings(t->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) ==
              100);
    s = nghttp2_session_get_stream_user_data(t->session, 1);
    cr_assert(s);
    cr_expect(s->remote_closed && !s->read_closed && s->window == -70000 && s->delivery_port == 41000);
    cr_expect(nghttp2_session_get_stream_remote_window_size(t->session, 1) == 0);
    cr_expect(recv(far[1], text, sizeof(text), 0) == 6 && !strcmp(text, "!hello"));
    cr_expect(s->write_closed && recv(far[1], text, sizeof(text), MSG_DONTWAIT) == 0);
    s = nghttp2_session_get_stream_user_data(t->session, 5);
    cr_expect(s && s->read_closed && !s->remote_closed && s->c.inbound && s->c.destination.port == 81);
    cr_expect(nghttp2_session_get_stream_remote_window_size(t->session, 5) == 65547);
    cr_expect(nghttp2_session_get_stream_effective_recv_data_length(t->session, 5) == 1000);
    leave(3);
}

WORLD_TEST(move_golden, client)
{
    struct tunnel *t = NULL, *at;
    struct stream *s;

    arrive("tunnel-client.hex", 2);
    for (size_t i = 0; i < array_size(world.wp->clients); i++) {
        list_for_each (at, &world.wp->clients[i], node)
            t = at;
    }
    cr_assert(t && !t->server && t->state == TUNNEL_OPEN && t->streams_len == 1);
    cr_expect(t->frames.kept_len == 5 && t->frames.header_len == 5 && tunnel_capacity(t) == 0);
    cr_expect(nghttp2_session_get_remote_window_size(t->session) == 0);
    cr_expect(nghttp2_session_get_next_stream_id(t->session) == 5);
    s = nghttp2_session_get_stream_user_data(t->session, 3);
    cr_expect(s && s->read_closed && !s->c.inbound && s->c.client.port == 50000);
    cr_expect(nghttp2_session_get_stream_remote_window_size(t->session, 3) == 1048576 - 100000);
    leave(2);
}

WORLD_TEST(move_golden, request)
{
    char text[16] = "";
    struct endpoint at;
    struct tunnel *t;
    struct stream *s;

    listener = world_listen(WORLD_POD, 80, &at);
    arrive("tunnel-request.hex", 1);
    t = list_first(&world.wp->servers, struct tunnel, node);
    cr_assert(t->server && t->streams_len == 1);
    s = nghttp2_session_get_stream_user_data(t->session, 3);
    cr_assert(s && s->c.flow.counted && s->c.flow.opened == 1000000000000000u);
    cr_expect_str_eq(s->c.flow.hbone_authority, "192.0.2.2:80");
    world_until(served, "the application has a connection");
    cr_expect(recv(server, text, sizeof(text), 0) == 4 && !strcmp(text, "word"));
    cr_expect(s->state == STREAM_OPEN && OPENED == 0, "another process has counted it");
    leave(1);
}

WORLD_TEST(move_golden, inside)
{
    struct tunnel *t, *outer = NULL, *inside = NULL;
    char text[16] = "";
    struct stream *s;

    arrive("tunnel-inside.hex", 2);
    for (size_t i = 0; i < array_size(world.wp->clients); i++) {
        list_for_each (t, &world.wp->clients[i], node)
            *(t->inner ? &inside : &outer) = t;
    }
    cr_assert(outer && inside && outer->state == TUNNEL_OPEN && inside->state == TUNNEL_OPEN);
    cr_expect(tunnel_capacity(outer) == 0 && tunnel_capacity(inside) == 0);
    cr_expect(outer->streams_len == 1 && inside->streams_len == 1 && world_connections() == 2);
    s = nghttp2_session_get_stream_user_data(outer->session, 1);
    cr_assert(s && s->inner && s->fd < 0 && s->inner == inside->inner);
    s = nghttp2_session_get_stream_user_data(inside->session, 3);
    cr_expect(s && !s->inner && s->fd >= 0 && s->c.client.port == 50000);
    world_run(50);
    cr_expect(recv(far[0], text, sizeof(text), MSG_DONTWAIT) > 5 && text[0] == 23, "what waited is said");
    leave(2);
}
