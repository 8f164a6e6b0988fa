/* SPDX-License-Identifier: Apache-2.0 */
/* What is easily forgotten when a tunnel moves: headers, frames in parts, settings, the end. Either role. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/hbone/tunnel_frames.h"
#include "tests/unit/proxy/hbone/move_scene.h"

TestSuite(traps, .init = scene_begin, .fini = scene_end, .timeout = 110);

/* A test in both roles: one after the other, in the same world. */
#define BOTH_ROLES(name)                \
    static void name(bool serves);      \
    WORLD_TEST(traps, name##_as_server) \
    {                                   \
        name(true);                     \
    }                                   \
    WORLD_TEST(traps, name##_as_client) \
    {                                   \
        name(false);                    \
    }                                   \
    static void name(bool serves)

static void begin(bool serves)
{
    move_scene_begin(serves, NULL, 0);
    scene_settle();
}

/* A stream still carries bytes both ways. */
static void works(int32_t id)
{
    struct end_to_end *e = scene_stream(id);

    cr_assert(e->answered && !e->gone, "stream %d", id);
    scene_peer_sends(id, 3000, false);
    scene_app_sends(id, 2000);
    scene_settle();
    cr_assert(e->app_received == e->to_send && e->peer_received == e->app_sent,
              "stream %d: %zu of %zu, %zu of %zu", id, e->app_received, e->to_send, e->peer_received,
              e->app_sent);
}

static void add_raw(const void *bytes, size_t len)
{
    scene_say();
    scene.out = realloc(scene.out, scene.out_len + len);
    memcpy(scene.out + scene.out_len, bytes, len);
    scene.out_len += len;
}

/* ---- headers: both ends have tables for them, and nobody can look into them ---- */

BOTH_ROLES(headers_are_understood_by_either_side)
{
    begin(serves);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 3; i++) {
            int32_t id = scene_open();

            scene_settle();
            cr_assert_str_eq(scene_stream(id)->authority, serves ? "192.0.2.2:80" : "198.51.100.7:80");
            works(id);
        }
        scene_hand_over();
        scene_settle();
    }
    move_scene_end();
}

/* The peer's table may be of any size, and have changed. */
BOTH_ROLES(headers_fit_into_the_peers_table)
{
    static const uint32_t sizes[] = {0, 100, 4096, 60, 65536, 300};
    static const nghttp2_settings_entry small[] = {{NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 200}};

    move_scene_begin(serves, small, 1);
    works((scene_open(), scene_settle(), 1));
    for (size_t i = 0; i < array_size(sizes); i++) {
        int32_t id;

        scene_peer_sets(NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, sizes[i]);
        scene_settle();
        scene_hand_over();
        id = scene_open();
        scene_settle();
        works(id);
    }
    move_scene_end();
}

/* A request as an encoder writes it that adds to its table whatever its size. */
static int32_t add_to_table(bool with_size)
{
    static const uint8_t block[] = "\x20\x42\x07"
                                   "CONNECT\x41\x0c"
                                   "192.0.2.2:80\x40\x07"
                                   "baggage\x03"
                                   "k=v";
    size_t skip = with_size ? 0 : 1, len = sizeof(block) - 1 - skip;
    int32_t id = scene_open();
    const uint8_t header[] = {0, 0, (uint8_t)len, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 0,
                              0, 0, (uint8_t)id};

    scene_say();
    scene.out_len = 0; /* what the peer's own encoder has made of it */
    add_raw(header, sizeof(header));
    add_raw(block + skip, len);
    scene_settle();
    return id;
}

/* That leaves it as empty as it was, and is no reason to stay. */
WORLD_TEST(traps, additions_to_a_table_of_no_size)
{
    begin(true);
    works((scene_open(), scene_settle(), 1));
    works(add_to_table(true));
    for (int i = 0; i < 3; i++) {
        scene_hand_over();
        works(add_to_table(false));
        cr_expect(!scene.tunnel->table_filled);
    }
    move_scene_end();
}

/* One that is filled is of use to the peer, and is known here alone. */
WORLD_TEST(traps, stays_with_a_table_that_is_filled)
{
    begin(true);
    works(add_to_table(false));
    scene_stays(TUNNEL_STAYS_TABLE);
    move_scene_end();
}

/* Until the peer has acknowledged that it has no table, it may have filled it. */
BOTH_ROLES(stays_until_settings_are_known)
{
    int32_t id;

    move_scene_begin(serves, NULL, 0);
    if (serves) {
        scene_turn();
        scene_stays(TUNNEL_STAYS_NO_SETTINGS); /* of the peer */
    }
    id = scene_open();
    scene_say();
    scene_push(1000);
    scene_turn();
    cr_assert(scene.tunnel->settings_received);
    scene_stays(TUNNEL_STAYS_NO_SETTINGS);
    scene_settle();
    works(id);
    scene_hand_over();
    works(id);
    move_scene_end();
}

/* ---- frames of which a part has come ---- */

static void request_in_parts(void)
{
    size_t len = 20;

    for (size_t cut = 1; cut < len; cut++) {
        int32_t id = scene_open();

        scene_say();
        len = scene.out_len;
        scene_push(cut);
        scene_turn();
        cr_assert(scene.tunnel->frames.kept_len == cut);
        scene_hand_over();
        scene_settle();
        cr_assert(scene_stream(id)->answered, "cut behind %zu of %zu bytes", cut, len);
        nghttp2_submit_rst_stream(scene.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
        scene_settle();
    }
}

BOTH_ROLES(control_frames_in_parts)
{
    size_t len = 20;
    int32_t id;

    begin(serves);
    id = scene_open();
    scene_settle();
    for (size_t cut = 1; cut < len; cut++) {
        unsigned pings = scene.pings, acknowledged = scene.acknowledged;

        scene_peer_sets(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 65535 + (uint32_t)cut);
        nghttp2_submit_ping(scene.session, NGHTTP2_FLAG_NONE, NULL);
        scene_say();
        len = scene.out_len;
        scene_push(cut);
        scene_turn();
        scene_hand_over();
        scene_settle();
        cr_assert(scene.pings == pings + 1 && scene.acknowledged == acknowledged + 1,
                  "cut behind %zu of %zu bytes", cut, len);
        cr_assert(nghttp2_session_get_remote_settings(scene.tunnel->session,
                                                      NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE) == 65535 + cut);
    }
    if (serves)
        request_in_parts();
    works(id);
    move_scene_end();
}

BOTH_ROLES(data_in_parts)
{
    size_t len = 20, before = 0;

    begin(serves);
    for (size_t cut = 1; cut < len; cut++) {
        int32_t id = scene_open();
        struct end_to_end *e = scene_stream(id);

        scene_settle();
        scene_peer_sends(id, 50, cut & 1);
        scene_say();
        len = scene.out_len;
        scene_push(cut);
        scene_turn();
        scene_hand_over();
        scene_turn();
        if (cut > 15) { /* and once more within the same frame */
            scene_push(3);
            scene_turn();
            scene_hand_over();
        }
        scene_settle();
        cr_assert(e->app_received == 50 && e->app_got_end == (cut & 1), "cut behind %zu of %zu bytes", cut,
                  len);
        if (!(cut & 1))
            works(id);
        before += scene.tunnel->frames.in_unit;
    }
    cr_expect(before == 0);
    move_scene_end();
}

/* A frame that is not kept, and padding, of which nghttp2 has consumed a part. */
BOTH_ROLES(stays_in_the_middle_of_such_frames)
{
    static const uint8_t padded[] = {0, 0, 30, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 0, 0, 0, 1, 29};
    static const uint8_t padding[29];
    const uint8_t large[] = {3, 0, 0, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 0, 0, 0, serves ? 99 : 1,
                             2, 7};
    int32_t id;

    begin(serves);
    id = scene_open();
    cr_assert(id == 1);
    scene_settle();
    add_raw(padded, sizeof(padded));
    scene_push(sizeof(padded));
    scene_turn();
    scene_stays(TUNNEL_STAYS_IN_FRAME);
    add_raw(padding, sizeof(padding));
    scene_settle();
    scene_hand_over();
    works(id);
    add_raw(large, sizeof(large));
    scene_push(sizeof(large));
    scene_turn();
    scene_stays(TUNNEL_STAYS_IN_FRAME);
    move_scene_end();
}

/* ---- streams that are over ---- */

/* DATA that was on its way when the highest stream was reset is no error of the peer's. */
BOTH_ROLES(late_data_for_the_highest_stream)
{
    int32_t first, last;

    begin(serves);
    first = scene_open();
    last = scene_open();
    scene_settle();
    scene_peer_sends(last, 1000, false);
    scene_say();
    stream_close(scene_of_tunnel(last), BRUMA_REASON_NONE, NULL, true);
    scene_turn();
    scene_hand_over();
    scene_hand_over();
    scene_push(2000);
    scene_turn();
    scene_settle();
    cr_expect(scene_stream(last)->gone_why == NGHTTP2_CANCEL && !scene.goaways);
    works(first);
    works((last = scene_open(), scene_settle(), last));
    move_scene_end();
}

/* DATA for one that the peer has ended itself is an error, of the stream alone; also elsewhere. */
WORLD_TEST(traps, data_behind_the_end)
{
    static const uint8_t data[] = {0, 0, 1, NGHTTP2_DATA, 0, 0, 0, 0, 1, 'x'};
    int32_t id;

    begin(true);
    id = scene_open();
    scene_settle();
    nghttp2_submit_rst_stream(scene.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    scene_settle();
    id = scene_open();
    scene_settle();
    scene_hand_over();
    cr_expect(tunnel_frames_find_closed(scene.tunnel, 1)->by_peer);
    add_raw(data, sizeof(data));
    scene_settle();
    works(id);
    move_scene_end();
}

/* A peer that resets much may go on as before. */
WORLD_TEST(traps, resets)
{
    begin(true);
    for (int i = 0; i < 1400; i++) {
        int32_t id = scene_open();

        nghttp2_submit_rst_stream(scene.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
        if (i == 700)
            scene_hand_over();
        if (i % 50 == 0)
            scene_settle();
    }
    scene_settle();
    works((scene_open(), scene_settle(), 2801));
    move_scene_end();
}

/* ---- settings ---- */

/* Of ours, the peer has not acknowledged some. */
BOTH_ROLES(settings_that_are_not_acknowledged)
{
    int32_t id;

    begin(serves);
    id = scene_open();
    scene_settle();
    scene.deaf = true;
    for (int i = 1; i <= TUNNEL_SETTINGS_KEPT + 1; i++) {
        scene_pressure(i & 1);
        scene_turn();
        if (i <= TUNNEL_SETTINGS_KEPT)
            scene_hand_over();
        cr_assert(scene.tunnel->unknown_settings == (unsigned)i);
    }
    scene_stays(TUNNEL_STAYS_NO_SETTINGS);
    scene.deaf = false;
    scene_settle();
    cr_expect(scene.tunnel->unknown_settings == 0);
    cr_expect(nghttp2_session_get_remote_settings(scene.session, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE) ==
              65535);
    scene_hand_over();
    scene_peer_sends(id, 5000000, false);
    scene_settle();
    works(id);
    move_scene_end();
}

/* Fewer streams than there are, and smaller frames than before: what the peer has said last counts. */
BOTH_ROLES(limits_that_the_peer_has_lowered)
{
    static const nghttp2_settings_entry generous[] = {{NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 1 << 20},
                                                      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20},
                                                      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 50}};
    int32_t ids[3];

    move_scene_begin(serves, generous, array_size(generous));
    nghttp2_session_set_local_window_size(scene.session, NGHTTP2_FLAG_NONE, 0, 1 << 20);
    for (int i = 0; i < 3; i++)
        ids[i] = scene_open();
    scene_settle();
    scene_app_sends(ids[0], 100000);
    scene_settle();
    cr_assert(scene.largest_frame > 16384, "%zu", scene.largest_frame);
    scene_peer_sets(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 16384);
    scene_peer_sets(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1);
    scene_settle();
    scene_hand_over();
    scene.largest_frame = 0;
    for (int i = 0; i < 3; i++) {
        scene_app_sends(ids[i], 100000);
        scene_settle();
        works(ids[i]);
    }
    cr_expect(scene.largest_frame == 16384);
    cr_expect(nghttp2_session_get_remote_settings(scene.tunnel->session,
                                                  NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) == 1);
    move_scene_end();
}

/* The successor would announce less. The peer knows what the tunnel has announced. */
BOTH_ROLES(settings_of_the_successor_are_others)
{
    struct proxy_settings *set = &world.proxy.settings;
    int32_t id;

    begin(serves);
    id = scene_open();
    scene_open();
    scene_settle();
    set->frame_size = 16384;
    set->stream_window = set->connection_window = 65535;
    set->max_streams = 1;
    scene_hand_over();
    scene_peer_sends(id, 3000000, false);
    scene_say();
    scene_push(SIZE_MAX);
    scene_settle();
    works(id);
    scene_hand_over();
    works(id);
    move_scene_end();
}

/* ---- not a word ---- */

BOTH_ROLES(nothing_is_said_twice)
{
    int32_t id;
    int n;

    begin(serves);
    id = scene_open();
    scene_settle();
    works(id);
    scene_app_reads(id, SIZE_MAX);
    scene_hand_over();
    for (int i = 0; i < 5; i++)
        scene_turn();
    cr_assert(ioctl(scene.tls.fd, FIONREAD, &n) == 0 && n == 0, "%d bytes", n);
    scene_hand_over_in_vain();
    for (int i = 0; i < 5; i++)
        scene_turn();
    cr_assert(ioctl(scene.tls.fd, FIONREAD, &n) == 0 && n == 0, "%d bytes", n);
    works(id);
    move_scene_end();
}
