/* SPDX-License-Identifier: Apache-2.0 */
/* A relay that is written down, and goes on from that: here in the same worker, as it does in another
 * process. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bruma/handover.h"
#include "proxy/connection/relay_internal.h"
#include "proxy/connection/relay_move.h"
#include "proxy/pod/live_connections.h"
#include "tests/unit/proxy/connection/pending_scene.h"

static struct {
    struct moving moving;
    unsigned gone;
} mover;

static void on_gone(struct moving *moving)
{
    (void)moving;
    mover.gone++;
}

static struct relay *the_relay(void)
{
    struct relay *r = relay_of(list_first(&world.wp->connections, struct connection, node));

    cr_assert(r);
    return r;
}

static bool here(void)
{
    char byte;

    if (recv(server, &byte, 1, MSG_DONTWAIT) == 1)
        cr_assert(send(server, &byte, 1, MSG_NOSIGNAL) == 1);
    return recv(client, &byte, 1, MSG_DONTWAIT) == 1;
}

static void talk(void)
{
    cr_assert(send(client, "x", 1, MSG_NOSIGNAL) == 1);
    world_until(here, "a byte goes there and back");
}

static void begin(void)
{
    scene_begin();
    memset(&mover, 0, sizeof(mover));
    mover.moving.gone = on_gone;
    mesh_knows_the_pod(NULL);
    world_commit(false);
    go_out(WORLD_FAR, 0);
    world_until(served, "the other side has a connection");
    talk();
}

/* What a giver does: fds are duplicates, as of another process. */
static void write_down(struct relay *r, struct wire_writer *unit, int fds[RELAY_MOVE_FDS])
{
    const char *why;

    relay_offer(r, &mover.moving);
    why = relay_write(r, unit, fds);
    cr_assert(!why, "%s", why);
    for (int i = 0; i < RELAY_MOVE_FDS; i++)
        fds[i] = dup(fds[i]);
}

/* The field inside of a unit. */
static struct wire_field body(const struct wire_writer *unit)
{
    struct wire_reader reader = wire_reader(unit->data, unit->len);
    struct wire_field f;

    cr_assert(wire_next(&reader, &f) == 1 && f.number == BRUMA_UNIT_RELAY);
    return f;
}

static int read_it(const uint8_t *data, size_t len, int fds[RELAY_MOVE_FDS], struct relay_arrival **ret)
{
    char error[200] = "";
    int r = relay_read(world.worker, data, len, fds, RELAY_MOVE_FDS, ret, error, sizeof(error));

    cr_assert((r < 0) == (*error != '\0'), "%d, \"%s\"", r, error);
    return r;
}

static void ends(void)
{
    close(client);
    close(server);
    client = server = -1;
    world_until(none_left, "the relay ends");
}

TestSuite(relay_move, .init = begin, .fini = scene_end, .timeout = 60);

WORLD_TEST(relay_move, goes_on_as_another_one)
{
    for (int i = 0; i < 5; i++) {
        struct wire_writer unit = {};
        struct relay_arrival *arrival;
        struct relay *r = the_relay();
        int fds[RELAY_MOVE_FDS];
        struct wire_field f;

        write_down(r, &unit, fds);
        f = body(&unit);
        cr_assert(read_it(f.bytes, f.len, fds, &arrival) == 0);
        relay_release(r);
        cr_assert(world_connections() == 0);
        relay_arrive(world.worker, arrival);
        cr_assert(world_connections() == 1);
        wire_writer_clear(&unit);
        talk();
    }
    cr_expect(mover.gone == 0);
    ends();
    cr_expect(OPENED == 1 && CLOSED == 1, "opened %g, closed %g", OPENED, CLOSED);
}

WORLD_TEST(relay_move, goes_on_where_it_was)
{
    struct wire_writer unit = {};
    struct relay *r = the_relay();
    int fds[RELAY_MOVE_FDS];

    write_down(r, &unit, fds);
    for (int i = 0; i < RELAY_MOVE_FDS; i++)
        close(fds[i]);
    cr_assert(send(client, "x", 1, 0) == 1);
    world_run(50);
    cr_expect(recv(server, &(char){0}, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "it stands still");
    relay_thaw(r);
    world_run(50);
    cr_expect(recv(server, &(char){0}, 1, MSG_DONTWAIT) == 1);
    wire_writer_clear(&unit);
    ends();
}

WORLD_TEST(relay_move, who_moves_it_hears_of_its_end)
{
    struct wire_writer unit = {};
    struct relay *r = the_relay();
    struct connection *c = list_first(&world.wp->connections, struct connection, node);
    int fds[RELAY_MOVE_FDS];

    write_down(r, &unit, fds);
    for (int i = 0; i < RELAY_MOVE_FDS; i++)
        close(fds[i]);
    c->abort(c, BRUMA_REASON_POLICY_DENIED, NULL);
    cr_expect(mover.gone == 1);
    wire_writer_clear(&unit);
    world_until(none_left, "the relay ends");
    ends();
}

WORLD_TEST(relay_move, what_is_cut_off_or_unknown_is_refused_and_nothing_is_lost)
{
    struct wire_writer unit = {}, more = {};
    struct relay_arrival *arrival;
    struct relay *r = the_relay();
    int fds[RELAY_MOVE_FDS];
    struct wire_field f;

    write_down(r, &unit, fds);
    f = body(&unit);
    for (size_t len = 0; len < f.len; len++) {
        if (read_it(f.bytes, len, fds, &arrival) == 0) {
            /* cut behind a whole field that may be missing */
            for (int i = 0; i < RELAY_MOVE_FDS; i++)
                fds[i] = -1;
            relay_arrival_free(arrival);
            cr_assert(len > f.len - 16, "%zu of %zu bytes are no relay", len, f.len);
            for (int i = 0; i < RELAY_MOVE_FDS; i++)
                fds[i] = dup(i ? server : client);
        }
        cr_assert(fds[0] >= 0 && fds[1] >= 0, "they are the caller's still");
    }
    wire_put_bytes(&more, 0x7ffe, "x", 1);
    cr_assert(!more.failed);
    f.bytes = memcpy(malloc(f.len + more.len), f.bytes, f.len);
    memcpy((uint8_t *)(uintptr_t)f.bytes + f.len, more.data, more.len);
    cr_expect(read_it(f.bytes, f.len + more.len, fds, &arrival) == -EPROTONOSUPPORT,
              "a field that is needed");
    ((uint8_t *)(uintptr_t)f.bytes)[f.len] |= 8; /* the number is odd: 0x7fff */
    cr_expect(read_it(f.bytes, f.len + more.len, fds, &arrival) == 0, "one that may be passed over");
    relay_arrival_free(arrival);
    free((uint8_t *)(uintptr_t)f.bytes);
    wire_writer_clear(&more);
    wire_writer_clear(&unit);
    relay_thaw(r);
    talk();
    ends();
}

/* The unit's connection once more, in place of that of the other pod. */
WORLD_TEST(relay_move, two_of_the_same_side_are_no_pair)
{
    struct wire_writer unit = {}, twice = {};
    struct relay_arrival *arrival;
    struct relay *r = the_relay();
    int fds[RELAY_MOVE_FDS];
    struct wire_reader reader;
    struct wire_field f;

    write_down(r, &unit, fds);
    f = body(&unit);
    reader = wire_reader(f.bytes, f.len);
    cr_assert(wire_next(&reader, &f) == 1 && f.number == BRUMA_RELAY_CONNECTION);
    wire_put_bytes(&twice, BRUMA_RELAY_OTHER, f.bytes, f.len);
    f = body(&unit);
    wire_writer_reserve(&twice, f.len);
    cr_assert(!twice.failed);
    memcpy(twice.data + twice.len, f.bytes, f.len);
    cr_expect(read_it(twice.data, twice.len + f.len, fds, &arrival) == -EBADMSG);
    cr_assert(fds[0] >= 0 && fds[1] >= 0, "they are the caller's still");
    wire_writer_clear(&twice);
    wire_writer_clear(&unit);
    relay_thaw(r);
    talk();
    ends();
}

/* How often nothing may be delivered from the client's address and port. */
static int live(const struct pod *pod, const struct endpoint *from, uint16_t port)
{
    int times = live_connections_add(pod->live_connections, from, port) - 1;

    live_connections_remove(pod->live_connections, from, port);
    return times;
}

static void begin_inbound(void)
{
    scene_begin();
    memset(&mover, 0, sizeof(mover));
    mover.moving.gone = on_gone;
    mesh_knows_the_pod(NULL);
    world_commit(false);
    come_in(0);
    world_until(served, "the application has a connection");
    talk();
}

TestSuite(relay_move_inbound, .init = begin_inbound, .fini = scene_end, .timeout = 60);

/* What comes by a tunnel is delivered from the same address: from a port that is in use it would end that.
 * Both processes know of it while it is on its way. */
WORLD_TEST(relay_move_inbound, nothing_is_delivered_from_its_clients_port)
{
    struct relay *r = the_relay();
    const struct pod *pod = r->c.wp->pod;
    const struct endpoint from = r->c.client;
    const uint16_t port = r->c.destination.port;
    struct relay_arrival *arrival;
    struct wire_writer unit = {};
    struct wire_field f;
    int fds[RELAY_MOVE_FDS], again[RELAY_MOVE_FDS];

    cr_assert(r->c.inbound && live(pod, &from, port) == 1);
    write_down(r, &unit, fds);
    for (int i = 0; i < RELAY_MOVE_FDS; i++)
        again[i] = dup(fds[i]);
    f = body(&unit);
    cr_assert(read_it(f.bytes, f.len, again, &arrival) == 0 && live(pod, &from, port) == 2);
    relay_arrival_free(arrival);
    cr_assert(live(pod, &from, port) == 1);
    cr_assert(read_it(f.bytes, f.len, fds, &arrival) == 0 && live(pod, &from, port) == 2);
    relay_release(r);
    cr_assert(live(pod, &from, port) == 1);
    relay_arrive(world.worker, arrival);
    cr_assert(live(pod, &from, port) == 1);
    wire_writer_clear(&unit);
    talk();
    ends();
    cr_expect(live(pod, &from, port) == 0);
}

/* As version 0.1.0 wrote it: each release reads what is in that folder. */
WORLD_TEST(relay_move, units_of_former_releases_are_read)
{
    FILE *in = fopen(TEST_DATA "/handover/relay-1.hex", "r");
    struct relay_arrival *arrival;
    uint8_t data[4096];
    int fds[RELAY_MOVE_FDS] = {dup(0), dup(0)};
    size_t len = 0;
    unsigned byte;

    if (getenv("BRUMA_WRITE_UNITS")) {
        struct wire_writer unit = {};
        struct relay *r = the_relay();
        struct wire_field f;
        int own[RELAY_MOVE_FDS];

        write_down(r, &unit, own);
        f = body(&unit);
        for (size_t i = 0; i < f.len; i++)
            printf("%02x%s", f.bytes[i], i % 32 == 31 || i + 1 == f.len ? "\n" : "");
        fflush(stdout);
        for (int i = 0; i < RELAY_MOVE_FDS; i++)
            close(own[i]);
        wire_writer_clear(&unit);
        relay_thaw(r);
    }
    cr_assert(in, "tests/data/handover/relay-1.hex");
    while (len < sizeof(data) && fscanf(in, "%2x", &byte) == 1)
        data[len++] = (uint8_t)byte;
    fclose(in);
    cr_assert(read_it(data, len, fds, &arrival) == 0);
    relay_arrival_free(arrival);
    ends();
}
