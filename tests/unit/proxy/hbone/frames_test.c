/* SPDX-License-Identifier: Apache-2.0 */
/* What nghttp2 gets of a tunnel's bytes, however they are cut: each frame but DATA whole. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/hbone/tunnel_frames.h"

TestSuite(frames, .timeout = 60);

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

static struct tunnel tunnel;
static char told[8192]; /* what nghttp2 has said, a word for each frame */
static size_t told_len, data_len;
static const uint8_t *reading; /* DATA points in here, or the test fails */
static size_t reading_len;

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    static const char *const names[] = {"data",    "headers", "priority", "rst",    "settings",
                                        "promise", "ping",    "goaway",   "window", "continuation"};

    (void)session;
    (void)data;
    told_len += (size_t)snprintf(told + told_len, sizeof(told) - told_len, "%s%d ", names[frame->hd.type],
                                 frame->hd.stream_id);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t len,
                   void *data)
{
    (void)session;
    (void)flags;
    (void)id;
    (void)data;
    cr_assert(bytes >= reading && bytes + len <= reading + reading_len, "DATA is where it came");
    for (size_t i = 0; i < len; i++)
        cr_assert(bytes[i] == (uint8_t)data_len++);
    return 0;
}

static void begin(void)
{
    nghttp2_settings_entry none[] = {{NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 1 << 20}};
    nghttp2_session_callbacks *callbacks;

    cr_assert(nghttp2_session_callbacks_new(&callbacks) == 0);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    tunnel = (struct tunnel){.server = true};
    cr_assert(nghttp2_session_server_new(&tunnel.session, callbacks, &tunnel) == 0);
    cr_assert(nghttp2_submit_settings(tunnel.session, NGHTTP2_FLAG_NONE, none, 1) == 0);
    nghttp2_session_callbacks_del(callbacks);
    told_len = data_len = 0;
    told[0] = '\0';
}

static void end(void)
{
    tunnel_frames_free(&tunnel);
    nghttp2_session_del(tunnel.session);
    tunnel.session = NULL;
}

/* ---- what a peer says ---- */

static uint8_t text[4 << 20];
static size_t text_len;

static void add(const void *bytes, size_t len)
{
    cr_assert(text_len + len <= sizeof(text));
    memcpy(text + text_len, bytes, len);
    text_len += len;
}

static void add_header(size_t len, uint8_t type, uint8_t flags, uint32_t id)
{
    const uint8_t header[] = {
        (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len,       type,       flags,
        (uint8_t)(id >> 24),  (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id};

    add(header, sizeof(header));
}

static const uint8_t request[] = {2, 7, 'C', 'O', 'N', 'N', 'E', 'C', 'T', 1, 3, 'a', ':', '1'};

static void add_request(uint32_t id)
{
    add_header(sizeof(request), NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id);
    add(request, sizeof(request));
}

static void add_data(size_t len, uint8_t flags, uint32_t id, size_t *count)
{
    add_header(len, NGHTTP2_DATA, flags, id);
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)(*count)++;

        add(&byte, 1);
    }
}

static void add_beginning(void)
{
    text_len = 0;
    add(PREFACE, 24);
    add_header(0, NGHTTP2_SETTINGS, 0, 0);
}

static void add_all_kinds(void)
{
    static const uint8_t zero[64];
    size_t count = 0;

    add_beginning();
    add_header(0, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0);
    add_request(1);
    add_data(5, 0, 1, &count);
    add_header(4, NGHTTP2_HEADERS, 0, 3); /* in pieces */
    add(request, 4);
    add_header(0, NGHTTP2_CONTINUATION, 0, 3);
    add_header(9, NGHTTP2_CONTINUATION, 0, 3);
    add(request + 4, 9);
    add_header(1, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 3);
    add(request + 13, 1);
    add_data(0, 0, 3, &count);
    add_data(300, 0, 3, &count);
    add_header(8, NGHTTP2_PING, 0, 0);
    add(zero, 8);
    add_header(4, NGHTTP2_WINDOW_UPDATE, 0, 1);
    add("\0\0\0\7", 4);
    add_data(7, NGHTTP2_FLAG_END_STREAM, 1, &count);
    add_header(4, NGHTTP2_RST_STREAM, 0, 3);
    add("\0\0\0\10", 4);
    add_header(17, NGHTTP2_GOAWAY, 0, 0);
    add(zero, 17);
}

#define ALL_TOLD "settings0 settings0 headers1 data1 headers3 data3 data3 ping0 window1 data1 rst3 goaway0 "

static int receive(size_t from, size_t to)
{
    /* memory of its own, so that whoever keeps a pointer into it is found */
    uint8_t *piece = malloc(to - from + 1);
    int r;

    cr_assert(piece);
    memcpy(piece, text + from, to - from);
    reading = piece;
    reading_len = to - from;
    r = tunnel_frames_receive(&tunnel, piece, to - from);
    free(piece);
    return r;
}

/* A PING of our own is taken by nghttp2, which it is only between frames. */
static bool is_between_frames(void)
{
    static const uint8_t ping[] = {0,   0,   8,   NGHTTP2_PING, 0,   0,   0,   0,  0,
                                   'p', 'r', 'o', 'b',          'e', 's', '!', '!'};
    size_t before = told_len;
    bool taken;

    cr_assert(nghttp2_session_mem_recv(tunnel.session, ping, sizeof(ping)) == sizeof(ping));
    taken = !strcmp(told + before, "ping0 ");
    told_len = before;
    told[before] = '\0';
    return taken;
}

Test(frames, in_two_pieces)
{
    add_all_kinds();
    for (size_t cut = 1; cut < text_len; cut++) {
        begin();
        cr_assert(receive(0, cut) == 0 && tunnel_frames_in_the_middle(&tunnel) == (cut < 24));
        cr_assert(receive(cut, text_len) == 0);
        cr_assert_str_eq(told, ALL_TOLD, "cut at %zu", cut);
        cr_assert(data_len == 312 && !tunnel.frames.in_unit && !tunnel.frames.kept);
        end();
    }
}

Test(frames, byte_by_byte)
{
    begin();
    add_all_kinds();
    for (size_t at = 0; at < text_len; at++) {
        cr_assert(receive(at, at + 1) == 0);
        if (at >= 33)
            cr_assert(!tunnel_frames_in_the_middle(&tunnel));
    }
    cr_assert_str_eq(told, ALL_TOLD);
    cr_assert(data_len == 312);
    end();
}

/* Wherever the bytes end but within DATA, nghttp2 is between two frames. */
Test(frames, nothing_but_data_is_given_in_parts)
{
    add_all_kinds();
    for (size_t cut = 33; cut < text_len; cut++) {
        begin();
        cr_assert(receive(0, cut) == 0);
        if (!tunnel.frames.left || !tunnel.frames.passes)
            cr_assert(is_between_frames(), "cut at %zu", cut);
        else
            cr_assert(tunnel.frames.header[3] == NGHTTP2_DATA);
        end();
    }
}

/* What a peer claims that will come is no reason to hold much: beyond the bound frames pass as they come. */
Test(frames, too_long_to_be_kept)
{
    size_t at;
    int r = 0;

    begin();
    add_beginning();
    add_header(1 << 20, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1);
    add(request, sizeof(request));
    cr_assert(receive(0, 40) == 0 && tunnel.frames.kept_len == 7);
    cr_assert(receive(40, text_len) == 0);
    cr_assert(tunnel_frames_in_the_middle(&tunnel) && !tunnel.frames.kept);
    end();

    begin();
    add_beginning();
    at = text_len;
    add_header(sizeof(request) - 1, NGHTTP2_HEADERS, 0, 1);
    add(request, sizeof(request) - 1);
    while (text_len < 80000)
        add_header(0, NGHTTP2_CONTINUATION, 0, 1);
    cr_assert(receive(0, at) == 0);
    /* nghttp2 may have had enough of them by then */
    while (at < text_len && r == 0 && !tunnel_frames_in_the_middle(&tunnel)) {
        cr_assert(tunnel.frames.kept_len <= 64 * 1024);
        r = receive(at, at + 900 < text_len ? at + 900 : text_len);
        at += 900;
    }
    cr_assert(at > 60000 && (r < 0 || tunnel_frames_in_the_middle(&tunnel)) && !tunnel.frames.kept);
    end();
}

/* What is kept counts as memory of the pod; where there is none, nghttp2 gets it as it comes. */
Test(frames, memory_is_counted)
{
    struct budget process = {.limit = 20}, pod = {};
    struct budget_share share = {.process = &process, .pod = &pod};

    begin();
    tunnel.frames.account.share = &share;
    add_beginning();
    add_request(1);
    cr_assert(receive(0, 33 + 10) == 0);
    cr_expect(process.used == 10 && tunnel.frames.kept_len == 10);
    cr_assert(receive(33 + 10, text_len) == 0);
    cr_expect(process.used == 0);
    cr_assert_str_eq(told, "settings0 headers1 ");
    process.limit = 3;
    add_beginning();
    text_len = 0;
    add_request(3);
    cr_assert(receive(0, 9) == 0 && tunnel_frames_in_the_middle(&tunnel) && process.used == 0);
    cr_assert(receive(9, text_len) == 0 && !tunnel_frames_in_the_middle(&tunnel));
    cr_assert_str_eq(told, "settings0 headers1 headers3 ");
    end();
}

/* Random frames, cut at random: each told once, in order, and every byte of DATA. */
Test(frames, random)
{
    for (unsigned seed = 1; seed <= 40; seed++) {
        char expected[sizeof(told)];
        size_t expected_len, count = 0, at = 0;
        uint32_t id = 1;

        srand(seed);
        begin();
        add_beginning();
        add_request(1);
        expected_len = (size_t)sprintf(expected, "settings0 headers1 ");
        for (unsigned i = 0; i < 200; i++) {
            switch (rand() % 4) {
            case 0:
                id += 2;
                add_request(id);
                expected_len += (size_t)sprintf(expected + expected_len, "headers%u ", id);
                break;
            case 1:
                add_header(8, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0);
                add("abcdefgh", 8);
                expected_len += (size_t)sprintf(expected + expected_len, "ping0 ");
                break;
            default:
                add_data((size_t)rand() % 120, 0, id, &count);
                expected_len += (size_t)sprintf(expected + expected_len, "data%u ", id);
            }
        }
        while (at < text_len) {
            size_t n = 1 + (size_t)rand() % (rand() % 8 ? 30 : 2000);

            n = n < text_len - at ? n : text_len - at;
            cr_assert(receive(at, at + n) == 0 && !tunnel.closing);
            at += n;
        }
        cr_assert_str_eq(told, expected, "seed %u", seed);
        cr_assert(data_len == count);
        end();
    }
}
