/* SPDX-License-Identifier: Apache-2.0 */
/* Tunnels that go to another process every few frames, under random traffic: every byte is checked where it
 * arrives, and none is missing in the end. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/proxy/hbone/move_scene.h"

TestSuite(move_random, .init = scene_begin, .fini = scene_end, .timeout = 110);

#define LIVE_MAX 12

static int32_t live[LIVE_MAX];
static unsigned live_len, opened, moves, stays;

static size_t some(size_t most)
{
    return (size_t)rand() % (most + 1);
}

/* Mostly little, now and then much. */
static size_t amount(void)
{
    switch (rand() % 4) {
    case 0:
        return 1 + some(9);
    case 1:
        return 1 + some(2000);
    case 2:
        return 1 + some(30000);
    default:
        return 1 + some(60000);
    }
}

static void forget(unsigned at)
{
    struct end_to_end *e = scene_stream(live[at]);

    if (e->app >= 0)
        close(e->app);
    e->app = -1;
    live[at] = live[--live_len];
}

/* It is over at both ends, each of which has everything of the other. */
static void check_end(unsigned at)
{
    struct end_to_end *e = scene_stream(live[at]);

    if (!e->gone || !e->app_got_end)
        return;
    cr_assert(e->gone_why == NGHTTP2_NO_ERROR && e->peer_got_end, "stream %d: %s", live[at],
              nghttp2_http2_strerror(e->gone_why));
    cr_assert(e->app_received == e->to_send && e->peer_received == e->app_sent,
              "stream %d: %zu of %zu, %zu of %zu", live[at], e->app_received, e->to_send, e->peer_received,
              e->app_sent);
    forget(at);
}

static void reset(unsigned at)
{
    struct end_to_end *e = scene_stream(live[at]);

    if (rand() % 2) {
        nghttp2_submit_rst_stream(scene.session, NGHTTP2_FLAG_NONE, live[at], NGHTTP2_CANCEL);
    } else if (e->app >= 0) {
        char byte;

        /* bytes that the application has not read make its close a reset of what is on the way */
        if (recv(e->app, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0)
            return;
    }
    forget(at);
}

static void act(bool settings)
{
    static const uint32_t windows[] = {0, 1, 1000, 65535, 65535, 1 << 20};
    struct end_to_end *e;
    unsigned at;
    int32_t id;

    if (live_len < LIVE_MAX && (!live_len || !(rand() % 12))) {
        live[live_len++] = scene_open();
        opened++;
        return;
    }
    at = (unsigned)rand() % live_len;
    id = live[at];
    e = scene_stream(id);
    if (e->gone || !e->answered)
        return;
    switch (rand() % 16) {
    case 0 ... 3:
        if (!e->peer_end)
            scene_peer_sends(id, amount(), !(rand() % 20));
        break;
    case 4 ... 6:
        scene_app_sends(id, amount());
        break;
    case 7 ... 9:
        scene_app_reads(id, amount());
        break;
    case 10 ... 12:
        scene_peer_reads(id, amount());
        break;
    case 13:
        if (!(rand() % 8))
            shutdown(e->app, SHUT_WR);
        break;
    case 14:
        if (!(rand() % 6))
            reset(at);
        break;
    default:
        scene.reads = rand() % 3;
        if (settings && !(rand() % 4))
            scene_peer_sets(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                            windows[(size_t)rand() % array_size(windows)]);
        if (settings && !(rand() % 4))
            scene_peer_sets(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 16384 + (uint32_t)some(100000));
        if (settings && !(rand() % 4))
            scene_peer_sets(NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, (uint32_t)some(5000));
        if (!(rand() % 4))
            nghttp2_submit_ping(scene.session, NGHTTP2_FLAG_NONE, NULL);
        if (!(rand() % 6))
            scene_pressure(rand() % 2);
    }
}

static void move(void)
{
    struct wire_writer unit = {};
    int fds[SCENE_STREAMS];
    size_t len;
    enum tunnel_stays why;

    if (rand() % 4 == 0) {
        why = scene_write(&unit, fds, &len);
        if (why == TUNNEL_MOVES) {
            for (size_t i = 0; i < len; i++)
                close(fds[i]);
            tunnel_thaw(scene.tunnel);
        }
    } else {
        why = scene_write(&unit, fds, &len);
        if (why == TUNNEL_MOVES) {
            struct tunnel *old = scene.tunnel;

            tunnel_release(old);
            scene_read(&unit, fds, len);
            moves++;
        }
    }
    /* one that stays may be asked again */
    stays += why != TUNNEL_MOVES;
    cr_assert(why == TUNNEL_MOVES || tunnel_stays_for_now(why) || why == TUNNEL_STAYS_IDLE, "%s",
              tunnel_stays_text(why));
    wire_writer_clear(&unit);
}

/* Everybody reads, nobody sends any more. */
static void let_all_end(void)
{
    scene_peer_sets(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20);
    scene.reads = true;
    for (int32_t id = 1; id < 2 * SCENE_STREAMS; id += 2)
        scene_peer_reads(id, SIZE_MAX); /* also of streams that were forgotten */
    for (unsigned i = 0; i < live_len; i++) {
        struct end_to_end *e = scene_stream(live[i]);

        if (!e->peer_end && !e->gone)
            scene_peer_sends(live[i], 0, true);
        shutdown(e->app, SHUT_WR);
    }
    scene_settle();
    for (unsigned i = live_len; i > 0; i--) {
        const struct end_to_end *e = scene_stream(live[i - 1]);

        if (e->app >= 0)
            shutdown(e->app, SHUT_WR); /* one that was begun meanwhile */
    }
    scene_settle();
    for (unsigned i = live_len; i > 0; i--)
        check_end(i - 1);
    cr_assert(live_len == 0, "%u streams do not end, the first is %d", live_len, live[0]);
}

/* When nothing is on the way, both ends must think the same of all windows. */
static void check_windows(unsigned step)
{
    nghttp2_session *here = scene.tunnel->session, *there = scene.session;

    scene.deaf = false;
    scene_settle_unread();
    cr_assert(nghttp2_session_get_remote_window_size(here) == nghttp2_session_get_local_window_size(there),
              "step %u: %d, %d", step, nghttp2_session_get_remote_window_size(here),
              nghttp2_session_get_local_window_size(there));
    cr_assert(nghttp2_session_get_local_window_size(here) == nghttp2_session_get_remote_window_size(there),
              "step %u: %d, %d", step, nghttp2_session_get_local_window_size(here),
              nghttp2_session_get_remote_window_size(there));
    for (unsigned i = 0; i < live_len; i++) {
        int32_t id = live[i];

        if (!scene_of_tunnel(id) || scene_stream(id)->gone)
            continue;
        cr_assert(nghttp2_session_get_stream_remote_window_size(here, id) ==
                      nghttp2_session_get_stream_local_window_size(there, id),
                  "step %u, stream %d", step, id);
        if (nghttp2_session_get_stream_remote_close(here, id))
            continue; /* nothing more comes */
        cr_assert(nghttp2_session_get_stream_local_window_size(here, id) ==
                      nghttp2_session_get_stream_remote_window_size(there, id),
                  "step %u, stream %d", step, id);
    }
}

static void traffic(bool serves, unsigned seed, unsigned steps)
{
    srand(seed);
    live_len = 0;
    move_scene_begin(serves, NULL, 0);
    scene_settle();
    for (unsigned i = 0; i < steps; i++) {
        act(i % 3 != 0);
        scene_say();
        if (rand() % 3)
            scene_push(rand() % 5 ? some(3000) : some(300000));
        if (rand() % 4)
            scene_turn();
        scene.deaf = rand() % 3 == 0;
        scene_hear();
        for (unsigned j = live_len; j > 0; j--)
            check_end(j - 1);
        if (rand() % 3 == 0)
            move();
        if (i % 100 == 99)
            check_windows(i);
    }
    scene.deaf = false;
    scene_pressure(false);
    let_all_end();
    move_scene_end();
}

static void often(bool serves)
{
    moves = stays = opened = 0;
    for (unsigned seed = 1; seed <= 6; seed++)
        traffic(serves, seed, 600);
    cr_expect(moves > 500 && opened > 50 && stays < moves);
}

WORLD_TEST(move_random, as_server)
{
    often(true);
}

WORLD_TEST(move_random, as_client)
{
    often(false);
}
