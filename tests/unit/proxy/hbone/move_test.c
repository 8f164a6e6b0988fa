/* SPDX-License-Identifier: Apache-2.0 */
/* Tunnels that go to another process: everyday traffic, either role. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/proxy/hbone/move_scene.h"

TestSuite(move, .init = scene_begin, .fini = scene_end, .timeout = 60);

/* Both directions of a stream, to their ends. */
static void finish(int32_t id)
{
    struct end_to_end *e = scene_stream(id);

    scene_peer_sends(id, 0, true);
    scene_settle();
    cr_expect(e->app_got_end && e->app_received == e->to_send, "%zu of %zu", e->app_received, e->to_send);
    shutdown(e->app, SHUT_WR);
    scene_settle();
    cr_expect(e->peer_got_end && e->peer_received == e->app_sent, "%zu of %zu", e->peer_received,
              e->app_sent);
    cr_expect(e->gone && e->gone_why == NGHTTP2_NO_ERROR);
}

static void moves(bool serves)
{
    int32_t ids[4];

    move_scene_begin(serves, NULL, 0);
    for (int i = 0; i < 4; i++)
        ids[i] = scene_open();
    scene_settle();
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 4; i++) {
            cr_assert(scene_stream(ids[i])->answered);
            scene_peer_sends(ids[i], 1000 + 10000 * (size_t)i, false);
            scene_app_sends(ids[i], 500 + 20000 * (size_t)i);
        }
        if (round & 1)
            scene_settle();
        scene_hand_over();
        scene_settle();
        scene_hand_over_in_vain();
        scene_settle();
    }
    for (int i = 0; i < 4; i++)
        finish(ids[i]);
    cr_expect(scene.handed_over == 5 && scene.goaways == 0);
    move_scene_end();
}

WORLD_TEST(move, as_server)
{
    moves(true);
}

WORLD_TEST(move, as_client)
{
    moves(false);
}

/* The next one looks at roots of its own, which are not those that it was refused by. */
WORLD_TEST(move, what_was_found_of_the_peer)
{
    int32_t early, late;

    move_scene_begin(true, NULL, 0);
    early = scene_open();
    scene_settle();
    scene.tunnel->untrusted = true;
    scene_hand_over();
    cr_expect(scene.tunnel->untrusted && !scene.tunnel->expired);
    late = scene_open();
    scene_settle();
    cr_expect(scene_stream(late)->gone && scene_stream(late)->gone_why == NGHTTP2_REFUSED_STREAM);
    scene_peer_sends(early, 1000, false);
    scene_settle();
    finish(early);
    move_scene_end();
}
