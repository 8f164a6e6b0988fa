/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that are let go while they wait, written down, and begun anew from that: here in the same
 * worker, as they are in another process. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bruma/handover.h"
#include "proxy/connection/outbound.h"
#include "proxy/connection/undecided.h"
#include "proxy/hbone/tunnel.h"
#include "tests/unit/proxy/connection/pending_scene.h"
#include "tests/unit/proxy/golden.h"

TestSuite(undecided, .init = scene_begin, .fini = scene_end, .timeout = 60);

/* The field inside of a unit. */
static struct wire_field body(const struct wire_writer *unit)
{
    struct wire_reader reader = wire_reader(unit->data, unit->len);
    struct wire_field f;

    cr_assert(!unit->failed && wire_next(&reader, &f) == 1 && f.number == BRUMA_UNIT_UNDECIDED);
    return f;
}

static int read_it(const uint8_t *data, size_t len, int *fd, struct undecided **ret)
{
    char error[200] = "";
    int r = undecided_read(world.worker, data, len, fd, 1, ret, error, sizeof(error));

    cr_assert((r < 0) == (*error != '\0'), "%d, \"%s\"", r, error);
    return r;
}

/* What giver and taker do. False: there is none that goes. */
static bool moves(bool late)
{
    struct undecided *old = undecided_let_go(world.worker, late), *new;
    struct wire_writer unit = {};
    struct wire_field f;
    int fd;

    if (!old)
        return false;
    undecided_write(old, &unit, &fd);
    fd = dup(fd);
    f = body(&unit);
    cr_assert(read_it(f.bytes, f.len, &fd, &new) == 0 && fd == -1);
    undecided_forget(old);
    undecided_begin(world.worker, new);
    wire_writer_clear(&unit);
    return true;
}

static unsigned count(void)
{
    const char *why = NULL;
    unsigned n = undecided_count(world.worker, &why);

    cr_assert(!n == !why);
    return n;
}

/* ---- of the pod's applications ---- */

WORLD_TEST(undecided, waits_for_a_certificate)
{
    knows_who_it_is();
    go_out(WORLD_SILENT, 8080);
    waits();
    cr_expect(count() == 1);
    cr_assert(moves(false));
    waits();
    certificate_comes();
    cr_expect(world_waiting() == 0 && OPENED == 1, "it is a stream that waits for its tunnel");
}

WORLD_TEST(undecided, is_decided_by_what_is_known_then)
{
    knows_who_it_is();
    go_out(WORLD_FAR, 0);
    is_a_relay();
    WORKLOAD(world.proxy.state, .name = "other", .node = "node-b", .addresses = {WORLD_FAR});
    world_commit(false);
    close(listener);
    go_out(WORLD_FAR, 0);
    waits();
    WORKLOAD(world.proxy.state, .name = "other", .node = "node-b", .addresses = {WORLD_FAR}, .plain = true);
    state_commit(world.proxy.state);
    cr_assert(moves(false));
    world_until(served, "it is plain by now");
}

WORLD_TEST(undecided, is_being_connected_and_counts_once)
{
    go_out(WORLD_SILENT, 9);
    cr_expect(count() == 1 && OPENED == 1);
    cr_expect(!moves(false), "it may need a moment only");
    for (int i = 0; i < 3; i++) {
        cr_assert(moves(true));
        cr_expect(world_connections() == 1 && world_metric("istio_tcp_sockets_open") <= 1);
    }
    close(client);
    client = -1;
    world.proxy.settings.connect_timeout = 100;
    cr_assert(moves(true));
    world_until(none_left, "nobody answers");
    cr_expect(OPENED == 1 && CLOSED == 1 && FAILURES("connect_timeout") == 1);
}

static struct tunnel *tunnel_to(const char *address)
{
    for (size_t i = 0; i < array_size(world.wp->clients); i++) {
        struct tunnel *t;
        char text[ENDPOINT_TEXT_LEN];

        list_for_each (t, &world.wp->clients[i], node) {
            if (!strncmp(endpoint_format(&t->peer, text), address, strlen(address)))
                return t;
        }
    }
    return NULL;
}

WORLD_TEST(undecided, waits_for_its_tunnel)
{
    knows_who_it_is();
    certificate_comes();
    go_out(WORLD_SILENT, 8080);
    cr_assert(tunnel_to(WORLD_SILENT) && tunnel_to(WORLD_SILENT)->queue_len == 1);
    cr_expect(!moves(false) && count() == 1);
    cr_assert(moves(true));
    cr_expect(tunnel_to(WORLD_SILENT)->queue_len == 1 && OPENED == 1 && count() == 1);
    tunnel_close(tunnel_to(WORLD_SILENT), BRUMA_REASON_HBONE_BLOCKED, NULL);
    is_refused();
    cr_expect(OPENED == 1 && CLOSED == 1);
}

static bool is_requested(void)
{
    return !list_empty(&world.wp->servers) &&
           list_first(&world.wp->servers, struct tunnel, node)->streams_len == 1 && world_waiting() == 1;
}

/* The peer is the pod itself, whose policies are not there. */
WORLD_TEST(undecided, waits_for_an_answer)
{
    mesh_knows_the_pod("shop/rule");
    pods_state_changed(&world.proxy);
    certificate_comes();
    go_out(WORLD_POD, 0);
    world_until(is_requested, "the peer has the request");
    cr_expect(!moves(false));
    cr_assert(moves(true));
    world_until(is_requested, "the peer has another request");
    mesh_has_policy(true);
    world_until(served, "the application has a connection");
    cr_assert(send(client, "x", 1, MSG_NOSIGNAL) == 1);
    world_until(passes, "a byte goes there and back");
    cr_expect(!moves(true) && count() == 0, "it is decided");
    close(client);
    close(server);
    client = server = -1;
    world_until(none_left, "both streams end");
}

WORLD_TEST(undecided, is_none_if_it_is_decided)
{
    go_out(WORLD_FAR, 0);
    world_until(served, "the other side has a connection");
    cr_expect(!moves(true) && count() == 0);
    is_a_relay();
}

static bool told;

static void on_served(struct connection_news *news)
{
    (void)news;
}

static void on_failed(struct connection_news *news, enum bruma_reason reason)
{
    (void)news;
    (void)reason;
    told = true;
}

WORLD_TEST(undecided, stays_if_somebody_waits_for_it)
{
    struct connection_news news = {.served = on_served, .failed = on_failed};
    struct endpoint from, to = sample_endpoint(WORLD_SILENT ":9");
    const char *why = "";
    int fd;

    client = world_connect(&fd, &from);
    outbound_accept_told(world.wp, fd, &from, &to, &news);
    cr_expect(!moves(true) && undecided_count(world.worker, &why) == 1);
    cr_expect_str_eq(why, "somebody waits for it");
    world_delete_pod();
    cr_expect(told);
}

/* ---- from outside ---- */

WORLD_TEST(undecided, waits_for_its_pod_then_for_a_policy)
{
    come_in(0);
    waits();
    cr_assert(moves(false));
    waits();
    mesh_knows_the_pod("shop/rule");
    waits();
    cr_assert(moves(false));
    waits();
    mesh_has_policy(true);
    is_a_relay();
}

WORLD_TEST(undecided, is_denied_when_it_has_moved)
{
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    cr_assert(moves(false));
    mesh_has_policy(false);
    is_refused();
    cr_expect(FAILURES("policy_denied") == 1 && OPENED == 1 && CLOSED == 1);
}

WORLD_TEST(undecided, is_taken_though_there_are_too_many)
{
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    world.proxy.settings.max_pod_descriptors = 0;
    cr_assert(moves(false));
    waits();
    mesh_has_policy(true);
    is_a_relay();
}

static int call(void)
{
    struct endpoint to = sample_endpoint(WORLD_POD ":15008");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)endpoint_to_sockaddr(&to, AF_UNSPEC, &sa);

    cr_assert(connect(fd, (struct sockaddr *)&sa, len) == 0);
    return fd;
}

static bool called(void)
{
    return world.wp->handshakes_len == 1;
}

WORLD_TEST(undecided, is_a_tunnel_that_waits_for_a_certificate)
{
    knows_who_it_is();
    client = call();
    world_until(called, "it waits");
    cr_expect(count() == 1 && world_waiting() == 1);
    cr_assert(moves(false));
    cr_expect(called() && world_waiting() == 1);
    certificate_comes();
    cr_expect(called() && world_waiting() == 0 && count() == 0, "its handshake may begin");
}

static bool has_begun(void)
{
    struct tunnel *t =
        list_empty(&world.wp->servers) ? NULL : list_first(&world.wp->servers, struct tunnel, node);

    return t && tls_has_read(&t->tls);
}

WORLD_TEST(undecided, is_a_tunnel_whose_peer_has_said_nothing)
{
    static const char hello[] = {22, 3, 1, 2, 0, 1}; /* a ClientHello begins */

    knows_who_it_is();
    certificate_comes();
    client = call();
    world_until(called, "its handshake may begin");
    for (int i = 0; i < 3; i++) {
        cr_assert(moves(false));
        cr_expect(called());
    }
    cr_assert(send(client, hello, sizeof(hello), MSG_NOSIGNAL) == sizeof(hello));
    world_until(has_begun, "it has begun");
    cr_expect(!moves(true) && called());
}

/* ---- that it cannot be moved ---- */

WORLD_TEST(undecided, is_not_taken_and_goes_on)
{
    struct undecided *u;

    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    u = undecided_let_go(world.worker, false);
    cr_assert(u && none_left());
    undecided_stays(world.worker, u);
    waits();
    cr_expect(!moves(true) && count() == 1, "nor are others of its pod");
    mesh_has_policy(true);
    is_a_relay();
}

WORLD_TEST(undecided, has_a_pod_that_goes_while_it_moves)
{
    struct undecided *u;

    come_in(0);
    u = undecided_let_go(world.worker, false);
    cr_assert(u);
    world_delete_pod();
    undecided_begin(world.worker, u);
    cr_expect(was_reset());
}

/* One that came in, as a field; a duplicate of its socket is fd. */
static struct wire_field written(struct wire_writer *unit, int *fd)
{
    struct undecided *u;

    come_in(8080);
    u = undecided_let_go(world.worker, false);
    cr_assert(u);
    undecided_write(u, unit, fd);
    *fd = dup(*fd);
    undecided_forget(u);
    return body(unit);
}

WORLD_TEST(undecided, what_is_cut_off_or_unknown_is_refused)
{
    struct wire_writer unit = {}, more = {};
    struct undecided *u;
    struct wire_field f;
    uint8_t *longer;
    int fd;

    f = written(&unit, &fd);
    for (size_t len = 0; len < f.len; len++)
        cr_assert(read_it(f.bytes, len, &fd, &u) == -EBADMSG && fd >= 0, "%zu of %zu bytes", len, f.len);
    wire_put_bytes(&more, 0x7ffe, "x", 1);
    longer = malloc(f.len + more.len);
    cr_assert(longer);
    memcpy(longer, f.bytes, f.len);
    memcpy(longer + f.len, more.data, more.len);
    cr_expect(read_it(longer, f.len + more.len, &fd, &u) == -EPROTONOSUPPORT, "a field that is needed");
    longer[f.len] |= 8; /* the number is odd: 0x7fff */
    cr_assert(read_it(longer, f.len + more.len, &fd, &u) == 0, "one that may be passed over");
    undecided_forget(u);
    free(longer);
    wire_writer_clear(&more);
    wire_writer_clear(&unit);
}

WORLD_TEST(undecided, pods_that_are_not_served_take_none)
{
    struct wire_writer unit = {};
    struct undecided *u;
    struct wire_field f;
    int fd;

    f = written(&unit, &fd);
    world.wp->draining = true;
    cr_expect(read_it(f.bytes, f.len, &fd, &u) == -ENOENT && fd >= 0);
    world.wp->draining = false;
    world_delete_pod();
    cr_expect(read_it(f.bytes, f.len, &fd, &u) == -ENOENT && fd >= 0);
    close(fd);
    wire_writer_clear(&unit);
}

/* Each release reads what a former one has written. */
WORLD_TEST(undecided, units_of_former_releases_are_read)
{
    struct undecided *u;
    uint8_t *data;
    size_t len;
    int fd = dup(0);

    if (getenv("BRUMA_WRITE_UNITS")) {
        struct wire_writer unit = {};
        struct wire_field f;
        int own;

        go_out(WORLD_SILENT, 9);
        u = undecided_let_go(world.worker, true);
        cr_assert(u);
        undecided_write(u, &unit, &own);
        f = body(&unit);
        for (size_t i = 0; i < f.len; i++)
            printf("%02x%s", f.bytes[i], i % 32 == 31 || i + 1 == f.len ? "\n" : "");
        fflush(stdout);
        undecided_forget(u);
        wire_writer_clear(&unit);
    }
    golden_read("undecided.hex", &data, &len);
    cr_assert(read_it(data, len, &fd, &u) == 0);
    undecided_forget(u);
    free(data);
}
