/* SPDX-License-Identifier: Apache-2.0 */
/* The same of windows; and what stays, what makes one go on that stood still, and the orderly end. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bruma/handover.h"
#include "proxy/worker/connection_unit.h"
#include "tests/unit/proxy/hbone/move_scene.h"

TestSuite(windows, .init = scene_begin, .fini = scene_end, .timeout = 110);

#define BOTH_ROLES(name)                  \
    static void name(bool serves);        \
    WORLD_TEST(windows, name##_as_server) \
    {                                     \
        name(true);                       \
    }                                     \
    WORLD_TEST(windows, name##_as_client) \
    {                                     \
        name(false);                      \
    }                                     \
    static void name(bool serves)

static int32_t begin(bool serves)
{
    int32_t id;

    move_scene_begin(serves, NULL, 0);
    id = scene_open();
    scene_settle();
    return id;
}

static void works(int32_t id)
{
    struct end_to_end *e = scene_stream(id);

    cr_assert(e->answered && !e->gone, "stream %d", id);
    scene_peer_sends(id, 3000, false);
    scene_app_sends(id, 2000);
    scene_settle();
    cr_assert(e->app_received == e->to_send && e->peer_received == e->app_sent);
}

/* ---- of what is received ---- */

/* What an application has taken is credit that the peer will get, also from the next process. */
BOTH_ROLES(little_by_little)
{
    struct end_to_end *e;
    int32_t id;

    world.proxy.settings.stream_window = world.proxy.settings.connection_window = 65535;
    move_scene_begin(serves, NULL, 0);
    scene.socket_buffer = 1; /* the least that there is */
    id = scene_open();
    scene_settle();
    e = scene_stream(id);
    scene_peer_sends(id, 300000, true);
    for (int i = 0; e->app_received < 300000 && i < 2000; i++) {
        scene_app_reads(id, 3000);
        scene_settle_unread();
        if (i % 2 == 0)
            scene_hand_over();
    }
    cr_expect(e->app_received == 300000 && scene.handed_over > 30, "%zu", e->app_received);
    move_scene_end();
}

/* Bytes that an application does not read stop its stream alone, and wait where the stream goes. */
BOTH_ROLES(unread_bytes)
{
    int32_t slow = begin(serves), quick = scene_open();
    struct end_to_end *e = scene_stream(slow);

    scene_settle();
    scene_peer_sends(slow, 3000000, true);
    scene_settle_unread();
    cr_assert(scene_of_tunnel(slow)->pending_len > 1000000);
    for (int i = 0; i < 4; i++) {
        size_t held = scene_of_tunnel(slow)->pending_len;

        scene_hand_over();
        cr_assert(scene_of_tunnel(slow)->pending_len <= held && scene_of_tunnel(slow)->c.account.held);
        scene_app_sends(quick, 1000);
        scene_app_reads(slow, 100000);
        scene_settle_unread();
    }
    cr_expect(scene_stream(quick)->peer_received == 4000);
    scene_settle();
    cr_expect(e->app_received == 3000000 && e->app_got_end);
    move_scene_end();
}

/* Under pressure windows shrink below what is in use, and the connection's credit waits for readers. */
BOTH_ROLES(windows_that_have_shrunk)
{
    int32_t id = begin(serves), other = scene_open();
    struct end_to_end *e = scene_stream(id);

    scene_settle();
    scene_peer_sends(id, 2000000, false);
    scene_settle_unread();
    scene_pressure(true);
    scene_hand_over();
    scene_settle_unread();
    scene_peer_sends(other, 500000, false);
    scene_settle_unread();
    cr_assert(scene_of_tunnel(other)->credit);
    for (int i = 0; i < 30; i++) {
        scene_hand_over();
        scene_app_reads(i & 1 ? id : other, 40000);
        scene_settle_unread();
        if (i == 20)
            scene_pressure(false);
    }
    scene_settle();
    cr_expect(e->app_received == 2000000 && scene_stream(other)->app_received == 500000);
    cr_expect(nghttp2_session_get_remote_window_size(scene.session) ==
              nghttp2_session_get_local_window_size(scene.tunnel->session));
    works(id);
    move_scene_end();
}

/* ---- of what is sent ---- */

/* END_STREAM was sent, then the connection's window was used up. */
BOTH_ROLES(ended_and_then_no_window)
{
    int32_t ended = begin(serves), other = scene_open();

    scene_settle();
    scene.reads = false;
    scene_app_sends(ended, 10);
    shutdown(scene_stream(ended)->app, SHUT_WR);
    scene_settle();
    cr_assert(scene_stream(ended)->peer_got_end);
    for (int i = 0; i < 4; i++) {
        scene_app_sends(other, 30000);
        scene_settle();
    }
    cr_assert(nghttp2_session_get_remote_window_size(scene.tunnel->session) == 0);
    scene_hand_over();
    scene_hand_over();
    scene_settle();
    cr_assert(scene_stream(other)->peer_received == 65535 - 10);
    scene.reads = true;
    scene_peer_reads(ended, 10);
    scene_peer_reads(other, 65535 - 10);
    scene_settle();
    cr_expect(scene_stream(other)->peer_received == scene_stream(other)->app_sent);
    scene_peer_sends(ended, 100, true);
    scene_settle();
    cr_expect(scene_stream(ended)->gone && scene_stream(ended)->gone_why == NGHTTP2_NO_ERROR);
    works(other);
    move_scene_end();
}

static void gives(int32_t id, int32_t bytes)
{
    cr_assert(nghttp2_submit_window_update(scene.session, NGHTTP2_FLAG_NONE, id, bytes) == 0);
    scene_stream(id)->unread -= (size_t)bytes;
    scene_settle();
}

/* The peer has taken back more than was left; nghttp2 says 0 of such a window. */
BOTH_ROLES(below_zero)
{
    int32_t id = begin(serves);
    struct end_to_end *e = scene_stream(id);

    scene.reads = false;
    scene_app_sends(id, 30000);
    scene_settle();
    scene_peer_sets(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 10000);
    scene_settle();
    cr_assert(nghttp2_session_get_stream_remote_window_size(scene.tunnel->session, id) == 0);
    scene_app_sends(id, 5000);
    scene_hand_over();
    scene_settle();
    gives(id, 19999);
    cr_expect(e->peer_received == 30000, "the window is -1");
    scene_hand_over();
    scene_settle();
    cr_expect(e->peer_received == 30000);
    gives(id, 1);
    cr_expect(e->peer_received == 30000);
    gives(id, 100);
    cr_expect(e->peer_received == 30100, "%zu", e->peer_received);
    scene_hand_over();
    scene_peer_sets(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 20000);
    scene_settle();
    cr_expect(e->peer_received == 35000);
    move_scene_end();
}

/* A window that is larger than the initial one, which the peer has never used up. */
BOTH_ROLES(above_the_initial_one)
{
    int32_t id = begin(serves);

    cr_assert(nghttp2_session_set_local_window_size(scene.session, NGHTTP2_FLAG_NONE, id, 3000000) == 0);
    cr_assert(nghttp2_session_set_local_window_size(scene.session, NGHTTP2_FLAG_NONE, 0, 5000000) == 0);
    scene_settle();
    scene_hand_over();
    scene.reads = false;
    while (scene_stream(id)->app_sent < 1000000) {
        scene_app_sends(id, 100000);
        scene_settle();
        scene_hand_over();
    }
    scene_settle();
    cr_expect(scene_stream(id)->peer_received == scene_stream(id)->app_sent);
    move_scene_end();
}

/* The peer's socket is full: records wait. */
BOTH_ROLES(records_that_wait)
{
    static const nghttp2_settings_entry wide[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 30}};
    int32_t id;

    move_scene_begin(serves, wide, 1);
    nghttp2_session_set_local_window_size(scene.session, NGHTTP2_FLAG_NONE, 0, 1 << 30);
    id = scene_open();
    scene_settle();
    scene.deaf = true;
    for (int i = 0; i < 200 && !tls_blocked(&scene.tunnel->tls); i++) {
        scene_app_sends(id, 100000);
        scene_turn();
    }
    cr_assert(tls_blocked(&scene.tunnel->tls));
    scene_peer_sends(id, 100000, false);
    for (int i = 0; i < 5; i++) {
        scene_hand_over();
        cr_assert(tls_blocked(&scene.tunnel->tls) && scene.tunnel->tls.account.held);
        scene_say();
        scene_push(30000);
        scene_turn();
        scene_app_reads(id, SIZE_MAX);
    }
    scene.deaf = false;
    scene_settle();
    works(id);
    move_scene_end();
}

/* ---- what stays ---- */

WORLD_TEST(windows, what_stays)
{
    int32_t id;

    world.proxy.settings.stream_window = world.proxy.settings.connection_window = 2 * BRUMA_HANDOVER_UNIT_MAX;
    id = begin(true);
    works(id);
    scene.holds = true;
    id = scene_open();
    scene_settle();
    scene_stays(TUNNEL_STAYS_OPENING);
    nghttp2_submit_rst_stream(scene.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    scene_settle();
    scene_hand_over();
    world.pod->own = true;
    scene_stays(TUNNEL_STAYS_OWN);
    world.pod->own = false;
    scene_peer_sends(1, BRUMA_HANDOVER_UNIT_MAX + 1000000, false);
    scene_settle_unread();
    scene_stays(TUNNEL_STAYS_UNREAD);
    scene_settle();
    scene_hand_over();
    works(1);
    move_scene_end();
}

WORLD_TEST(windows, what_is_not_worth_it)
{
    int32_t id = begin(false);

    works(id);
    stream_close(scene_of_tunnel(id), BRUMA_REASON_NONE, NULL, true);
    scene_settle();
    scene_stays(TUNNEL_STAYS_IDLE);
    move_scene_end();
}

/* ---- what happens to one that stands still ---- */

static void stands_still(struct wire_writer *unit)
{
    int fds[SCENE_STREAMS];
    size_t len;

    cr_assert(scene_write(unit, fds, &len) == TUNNEL_MOVES && scene.tunnel->frozen);
    for (size_t i = 0; i < len; i++)
        close(fds[i]);
    wire_writer_clear(unit);
}

BOTH_ROLES(goes_on_by_itself)
{
    struct wire_writer unit = {};
    int32_t id = begin(serves), other = scene_open();

    scene_settle();
    stands_still(&unit);
    scene_app_sends(id, 1000);
    scene_peer_sends(id, 1000, false);
    for (int i = 0; i < 5; i++) {
        scene_say();
        scene_push(5000);
        scene_turn();
        scene_hear();
    }
    cr_expect(scene_stream(id)->peer_received == 0 && scene_app_reads(id, 1000) == 0, "nothing moves");
    cr_expect(tunnel_capacity(scene.tunnel) == 0 && scene.gone == 0);
    stream_close(scene_of_tunnel(other), BRUMA_REASON_POLICY_CHANGED, NULL, true);
    cr_expect(scene.gone == 1 && !scene.tunnel->frozen && !scene.tunnel->moving);
    scene_settle();
    works(id);
    cr_expect(scene_stream(other)->gone);
    stands_still(&unit);
    scene_pressure(true);
    cr_expect(scene.gone == 2);
    works(id);
    stands_still(&unit);
    tunnel_drain(scene.tunnel);
    cr_expect(scene.gone == 3);
    works(id);
    scene.gone_expected = 3;
    move_scene_end();
}

WORLD_TEST(windows, ends_as_it_stands_still)
{
    struct wire_writer unit = {};

    begin(true);
    stands_still(&unit);
    tunnel_close(scene.tunnel, BRUMA_REASON_TUNNEL_PING_TIMEOUT, NULL);
    cr_expect(scene.gone == 1);
    scene.gone_expected = 1;
    move_scene_end();
}

/* ---- the orderly end ---- */

/* The first GOAWAY was said, and the PING behind it is not answered yet. */
WORLD_TEST(windows, in_the_middle_of_the_end)
{
    int32_t id = begin(true);

    tunnel_drain(scene.tunnel);
    scene.deaf = true;
    scene_turn();
    scene_hand_over();
    cr_expect(scene.tunnel->shutting_down && scene.tunnel->ping_sent && !scene.tunnel->goaway);
    scene.deaf = false;
    scene_settle();
    cr_expect(scene.goaways == 2 && !scene.tunnel->shutting_down && scene.tunnel->goaway);
    works(id);
    scene_hand_over();
    cr_expect(scene.tunnel->goaway && scene.tunnel->said_last == id);
    works(id);
    move_scene_end();
}

BOTH_ROLES(the_peer_has_said_goaway)
{
    int32_t id = begin(serves);

    nghttp2_submit_goaway(scene.session, NGHTTP2_FLAG_NONE, serves ? 0 : id, NGHTTP2_NO_ERROR, NULL, 0);
    scene_settle();
    cr_assert(scene.tunnel->goaway_heard);
    scene_hand_over();
    cr_expect(scene.tunnel->goaway && scene.tunnel->goaway_heard && tunnel_capacity(scene.tunnel) == 0);
    works(id);
    scene_hand_over();
    works(id);
    move_scene_end();
}

/* ---- units that cannot be taken ---- */

static int reads(const uint8_t *data, size_t len, int *fds, size_t fds_len)
{
    struct tunnel_arrival *arrival = NULL;
    char error[200] = "";
    int r = tunnel_arrival_read(world.worker, data, len, fds, fds_len, NULL, &arrival, error, sizeof(error));

    if (r == 0)
        tunnel_arrival_free(arrival);
    else
        cr_assert(error[0], "a reason is given");
    return r;
}

BOTH_ROLES(units_that_are_refused)
{
    struct wire_writer unit = {}, own = {};
    struct wire_reader reader;
    struct wire_field f;
    int32_t id = begin(serves);
    int fds[SCENE_STREAMS];
    size_t len;

    scene_open();
    scene_settle();
    scene_peer_sends(id, 300000, false);
    scene_settle_unread();
    cr_assert(scene_write(&unit, fds, &len) == TUNNEL_MOVES && len == 3);
    reader = wire_reader(unit.data, unit.len);
    cr_assert(wire_next(&reader, &f) == 1);
    cr_expect(reads(f.bytes, f.len, fds, 2) == -EBADMSG, "a socket is missing");
    for (size_t cut = 0; cut < f.len; cut += cut < 1000 || cut + 1000 > f.len ? 1 : 997)
        cr_assert(reads(f.bytes, cut, fds, len) < 0, "%zu of %zu bytes", cut, f.len);
    world.pod->cookie++;
    cr_expect(reads(f.bytes, f.len, fds, len) == -ENOENT, "it is of another pod");
    world.pod->cookie--;
    world.wp->draining = true;
    cr_expect(reads(f.bytes, f.len, fds, len) == -ENOENT);
    world.wp->draining = false;
    own.data = malloc(f.len + 1);
    own.len = own.size = f.len;
    memcpy(own.data, f.bytes, f.len);
    wire_put_varint(&own, 1002, 1);
    cr_expect(reads(own.data, own.len, fds, len) == -EPROTONOSUPPORT, "it cannot be passed over");
    own.len = f.len;
    wire_put_varint(&own, 1001, 1);
    wire_put_string(&own, 1003, "of a later release");
    for (size_t i = 0; i < len; i++)
        cr_assert(fcntl(fds[i], F_GETFD) >= 0, "sockets of what is refused are the caller's");
    cr_expect(reads(own.data, own.len, fds, len) == 0 && fds[0] == -1, "this may be");
    wire_writer_clear(&own);
    wire_writer_clear(&unit);
    tunnel_thaw(scene.tunnel);
    scene_settle();
    works(id);
    move_scene_end();
}
