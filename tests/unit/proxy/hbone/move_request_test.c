/* SPDX-License-Identifier: Apache-2.0 */
/* Tunnels that go to another process with requests of their peer that are not answered. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/proxy/hbone/move_scene.h"

TestSuite(move_request, .init = scene_begin, .fini = scene_end, .timeout = 60);

static int32_t open_unanswered(void)
{
    int32_t id;

    scene.holds = true;
    id = scene_open();
    scene_settle();
    cr_assert(!scene_stream(id)->answered && scene_of_tunnel(id)->request);
    return id;
}

/* The request is answered by whoever has it now, and the stream is as any other. */
static void is_served(int32_t id, size_t bytes)
{
    struct end_to_end *e = scene_stream(id);

    scene.holds = false;
    scene.late = true;
    scene_hand_over();
    scene_settle();
    cr_assert(e->answered && strcmp(e->authority, "a:1") != 0);
    scene_peer_sends(id, bytes, true);
    scene_app_sends(id, 1000);
    scene_settle();
    cr_expect(e->app_received == e->to_send && e->app_got_end && e->peer_received == 1000);
    shutdown(e->app, SHUT_WR);
    scene_settle();
    cr_expect(e->peer_got_end && e->gone && e->gone_why == NGHTTP2_NO_ERROR);
}

WORLD_TEST(move_request, is_waited_for_at_first)
{
    int32_t id;

    move_scene_begin(true, NULL, 0);
    id = open_unanswered();
    scene_stays(TUNNEL_STAYS_OPENING);
    is_served(id, 100000);
    cr_expect(scene.decided == 1);
    move_scene_end();
}

WORLD_TEST(move_request, moves_among_others_again_and_again)
{
    int32_t open[2], id;

    move_scene_begin(true, NULL, 0);
    open[0] = scene_open();
    scene_settle();
    id = open_unanswered();
    scene.holds = false;
    open[1] = scene_open();
    scene_settle();
    scene.holds = scene.late = true;
    for (unsigned i = 1; i <= 4; i++) {
        for (int n = 0; n < 2; n++) {
            scene_peer_sends(open[n], 70000, false);
            scene_app_sends(open[n], 50000);
        }
        if (i & 1)
            scene_settle();
        scene_hand_over();
        scene_settle();
        cr_assert(scene.decided == i && !scene_stream(id)->answered);
    }
    for (int n = 0; n < 2; n++) {
        struct end_to_end *e = scene_stream(open[n]);

        cr_expect(e->app_received == 280000 && e->peer_received == 200000);
    }
    is_served(id, 5000);
    cr_expect(scene.goaways == 0);
    move_scene_end();
}

/* The connection's windows are used up in part by streams that are over. */
WORLD_TEST(move_request, is_the_only_stream_of_a_tunnel_that_was_used)
{
    int32_t first, id;

    move_scene_begin(true, NULL, 0);
    scene.reads = false;
    first = scene_open();
    scene_settle();
    scene_app_sends(first, 20000);
    scene_peer_sends(first, 30000, true);
    scene_settle();
    shutdown(scene_stream(first)->app, SHUT_WR);
    scene_settle();
    cr_assert(nghttp2_session_get_remote_window_size(scene.tunnel->session) < 65535);
    id = open_unanswered();
    scene.late = true;
    scene_hand_over();
    scene_settle();
    scene.reads = true;
    scene_peer_reads(first, 20000);
    is_served(id, 200000);
    move_scene_end();
}

WORLD_TEST(move_request, has_data_ahead_of_its_answer)
{
    struct end_to_end *e;
    int32_t id;

    move_scene_begin(true, NULL, 0);
    id = open_unanswered();
    e = scene_stream(id);
    scene_peer_sends(id, 30000, false);
    scene_settle();
    cr_assert(scene_of_tunnel(id)->pending_len == 30000);
    scene.late = true;
    for (int i = 0; i < 3; i++) {
        scene_hand_over();
        scene_settle();
    }
    cr_assert(scene_of_tunnel(id)->pending_len == 30000 && e->app_received == 0);
    is_served(id, 40000);
    cr_expect(e->app_received == 70000);
    move_scene_end();
}

WORLD_TEST(move_request, is_not_taken_and_waits_on)
{
    int32_t id;

    move_scene_begin(true, NULL, 0);
    id = open_unanswered();
    scene.late = true;
    scene_hand_over_in_vain();
    cr_expect(scene.decided == 1);
    scene_stays(TUNNEL_STAYS_OPENING);
    world.wp->keeps_undecided = false;
    is_served(id, 1000);
    cr_expect(scene.decided == 2);
    move_scene_end();
}

WORLD_TEST(move_request, is_taken_back_by_its_peer)
{
    int32_t id, other;

    move_scene_begin(true, NULL, 0);
    id = open_unanswered();
    scene.late = true;
    scene_hand_over();
    scene_settle();
    nghttp2_submit_rst_stream(scene.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    scene_settle();
    cr_assert(!scene_of_tunnel(id));
    scene.holds = false;
    other = scene_open();
    scene_settle();
    cr_expect(scene_stream(other)->answered);
    scene_hand_over();
    scene_peer_sends(other, 1000, true);
    scene_settle();
    cr_expect(scene_stream(other)->app_received == 1000);
    move_scene_end();
}
