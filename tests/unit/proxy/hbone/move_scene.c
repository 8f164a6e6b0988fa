/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/hbone/move_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "bruma/handover.h"
#include "lib/tls_policy.h"
#include "proxy/hbone/pool.h"
#include "proxy/hbone/request.h"
#include "proxy/hbone/tunnel_internal.h"
#include "proxy/tls/tls_library.h"
#include "proxy/worker/connection_unit.h"
#include "tests/unit/certificates.h"

#define CLIENT "spiffe://cluster.local/ns/shop/sa/web"
#define SERVER "spiffe://cluster.local/ns/shop/sa/cart"

struct scene scene;
static struct test_ca ca;
static struct tls_context *client_context, *server_context;
static struct tls_buffers buffers; /* the peer's */
static struct workload expected;

static void stop(void *loop)
{
    loop_stop(loop);
}

void scene_turn(void)
{
    struct loop *loop = world.worker->loop;

    loop_post(loop, stop, loop);
    cr_assert(loop_run(loop) == 0);
    cr_assert(scene.tunnel->state == TUNNEL_OPEN || scene.tunnel->state == TUNNEL_HANDSHAKING ||
                  scene.tunnel->state == TUNNEL_CONNECTING,
              "the tunnel has ended");
}

size_t scene_app_reads(int32_t id, size_t most)
{
    struct end_to_end *e = scene_stream(id);
    static uint8_t buf[1 << 16];
    size_t total = 0;

    while (e->app >= 0 && total < most) {
        ssize_t n = recv(e->app, buf, most - total < sizeof(buf) ? most - total : sizeof(buf), MSG_DONTWAIT);

        if (n == 0)
            e->app_got_end = true;
        if (n <= 0)
            break;
        scene_verify(buf, id, false, e->app_received, (size_t)n);
        e->app_received += (size_t)n;
        total += (size_t)n;
    }
    scene.moved += total;
    return total;
}

static void settle(bool apps_read)
{
    size_t before;
    unsigned quiet = 0;

    while (quiet < 4) {
        before = scene.moved;
        scene_say();
        scene_push(1 << 20);
        scene_turn();
        scene_hear();
        for (int32_t id = 1; apps_read && id < 2 * SCENE_STREAMS; id += 2)
            scene_app_reads(id, SIZE_MAX);
        quiet = before == scene.moved && !scene.out_len ? quiet + 1 : 0;
    }
}

void scene_settle(void)
{
    settle(true);
}

void scene_settle_unread(void)
{
    settle(false);
}

/* ---- streams ---- */

static int app_socket(int32_t id)
{
    struct end_to_end *e = scene_stream(id);
    int fds[2];

    *e = (struct end_to_end){.app = -1};
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    e->app = fds[1];
    if (scene.socket_buffer)
        cr_assert(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &scene.socket_buffer, sizeof(int)) == 0);
    return fds[0];
}

static void abandoned(struct stream *s)
{
    request_clear(s->request);
    free(s->request);
    s->request = NULL;
}

static void requested(struct stream *s)
{
    struct end_to_end *e = scene_stream(s->id);

    s->fd = app_socket(s->id);
    cr_assert(!strcmp(s->request->method, "CONNECT") && s->request->authority && s->request->baggage);
    snprintf(e->authority, sizeof(e->authority), "%s", s->request->authority);
    if (scene.holds)
        return;
    abandoned(s);
    stream_open(s);
    cr_assert(tunnel_respond(s->tunnel, s, 200) == 0);
    stream_send_first(s, NULL, 0);
}

static void give_up(struct stream *s)
{
    struct end_to_end *e = scene_stream(s->id);

    close(s->fd);
    close(e->app);
    s->fd = e->app = -1;
}

/* The peer knows nothing of it. */
static void decide(struct stream *s)
{
    struct end_to_end *e = scene_stream(s->id), before = *e;

    requested(s);
    e->peer_sent = before.peer_sent;
    e->to_send = before.to_send;
    e->peer_end = before.peer_end;
    scene.decided++;
}

static const struct stream_events inbound_events = {
    .requested = requested, .give_up = give_up, .decide = decide, .abandoned = abandoned};

static struct stream *begin_request(struct tunnel *t, int32_t id)
{
    struct stream *s = stream_new(t->wp, &t->peer, &t->arrival, &inbound_events);

    cr_assert(s);
    s->id = id;
    s->request = calloc(1, sizeof(*s->request));
    tunnel_add_stream(t, s);
    return s;
}

static void answered(struct stream *s, int status)
{
    cr_assert(status == 200);
    scene_stream(s->id)->answered = true;
    stream_open(s);
    cr_assert(tunnel_stream_start(s->tunnel, s) == 0);
}

static void lost(struct stream *s, enum bruma_reason reason, const char *detail)
{
    cr_assert(false, "stream %d is lost: %d, %s", s->id, reason, detail);
}

static const struct stream_events outbound_events = {.answered = answered, .tunnel_lost = lost};

static void no_abort(struct connection *c, enum bruma_reason reason, const char *detail)
{
    (void)c;
    cr_assert(false, "aborted: %d, %s", reason, detail ? detail : "");
}

static int32_t open_outbound(void)
{
    const struct workload *local = worker_pod_workload(world.wp);
    int32_t id = (int32_t)nghttp2_session_get_next_stream_id(scene.tunnel->session);
    struct endpoint from = sample_endpoint(WORLD_POD ":40000"), to = sample_endpoint(WORLD_SILENT ":80");
    struct connection c;
    struct stream *s;

    connection_init(&c, world.wp, false, &from, &to, no_abort);
    workload_ref(local);
    cr_assert(connection_describe(&c, local, NULL, NULL, NULL, NULL, "198.51.100.7:80") == 0);
    s = stream_take(&c, app_socket(id), &outbound_events);
    cr_assert(s);
    s->state = STREAM_REQUESTED;
    cr_assert(tunnel_request(scene.tunnel, s) == 0 && s->id == id);
    return id;
}

int32_t scene_open(void)
{
    int32_t id = scene.tunnel_serves ? scene_peer_opens() : open_outbound();

    scene.moved++;
    return id;
}

void scene_app_sends(int32_t id, size_t bytes)
{
    struct end_to_end *e = scene_stream(id);
    uint8_t buf[4096];

    while (bytes) {
        size_t part = bytes < sizeof(buf) ? bytes : sizeof(buf);
        ssize_t n;

        scene_fill(buf, id, true, e->app_sent, part);
        n = send(e->app, buf, part, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0)
            break;
        e->app_sent += (size_t)n;
        bytes -= (size_t)n;
        scene.moved += (size_t)n;
    }
}

#define PRESSURE ((size_t)600 << 20)

void scene_pressure(bool pressed)
{
    if (pressed == scene.pressed)
        return;
    scene.pressed = pressed;
    world.proxy.memory.limit = (size_t)1 << 30;
    if (pressed)
        atomic_fetch_add(&world.proxy.memory.used, PRESSURE);
    else
        atomic_fetch_sub(&world.proxy.memory.used, PRESSURE);
    world.worker->level = world.wp->level = pressed ? BUDGET_SMALL_WINDOWS : BUDGET_CALM;
    tunnel_adapt(scene.tunnel);
}

/* ---- begin and end ---- */

static struct tls_context *context(const char *identity)
{
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    struct tls_context *c = NULL;
    char san[200], error[200], *leaf;
    const char *chain[1], *roots[] = {ca.pem};
    X509 *cert;

    snprintf(san, sizeof(san), "critical,URI:%s", identity);
    cert = test_certificate(key, ca.cert, ca.key, san, -60, 3600);
    leaf = test_pem(cert);
    chain[0] = leaf;
    cr_assert(tls_context_new(identity, key, chain, 1, roots, 1, &c, error, sizeof(error)) == 0, "%s", error);
    free(leaf);
    X509_free(cert);
    EVP_PKEY_free(key);
    return c;
}

static void start_server(int fd)
{
    struct endpoint from = sample_endpoint(WORLD_CLIENT ":50000"), to = sample_endpoint(WORLD_POD ":15008");

    cr_assert(tunnel_start_server(world.wp, fd, &from, &to, server_context, begin_request) == 0);
    scene.tunnel = list_first(&world.wp->servers, struct tunnel, node);
}

/* As tunnel_dial(), but that the socket is connected already. */
static void start_client(int fd)
{
    struct tunnel *t = tunnel_new(world.wp, false);

    cr_assert(t && tls_init(&t->tls, client_context, &world.worker->tls, fd, false) == 0);
    t->peer = sample_endpoint(WORLD_SILENT ":15008");
    t->context_serial = client_context->serial;
    t->tls.account.share = &world.wp->memory;
    t->tls.expected.upstream = &expected;
    t->tls_ready = true;
    cr_assert(loop_watch_add(world.worker->loop, &t->watch, fd, EPOLLOUT, tunnel_watch_event) == 0);
    t->state = TUNNEL_CONNECTING;
    pool_add(world.wp, t);
    quota_take(world.wp, NULL, &t->quota);
    worker_connection_begin(world.wp);
    scene.tunnel = t;
    tunnel_begin_handshake(t);
}

void move_scene_begin(bool tunnel_is_server, const nghttp2_settings_entry *entries, size_t len)
{
    int fds[2], r = 0;

    /* however slow the machine is */
    world.proxy.settings.linger_timeout = world.proxy.settings.half_close_timeout = 3600 * 1000;
    scene = (struct scene){.reads = true, .tunnel_serves = tunnel_is_server};
    for (size_t i = 0; i < SCENE_STREAMS; i++)
        scene.streams[i].app = -1;
    tls_library_init();
    mesh_knows_the_pod(NULL);
    ca = test_ca();
    client_context = context(CLIENT);
    server_context = context(SERVER);
    expected = (struct workload){.references = 1000, .identity = SERVER};
    cr_assert(tls_buffers_init(&buffers, WORKER_BUFFER) == 0);
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    cr_assert(tls_init(&scene.tls, scene.tunnel_serves ? client_context : server_context, &buffers, fds[1],
                       !scene.tunnel_serves) == 0);
    scene.tls.expected.upstream = &expected;
    if (tls_policy_has_tls12())
        cr_assert(SSL_set_max_proto_version(scene.tls.ssl, TLS1_2_VERSION));
    if (scene.tunnel_serves)
        start_server(fds[0]);
    else
        start_client(fds[0]);
    for (int i = 0; i < 20 && r == 0; i++) {
        r = tls_handshake(&scene.tls);
        scene_turn();
    }
    cr_assert(r == 1, "%s", scene.tls.error);
    scene_new_session(entries, len);
}

static bool no_tunnel(void)
{
    return world_connections() == 0 && atomic_load(&world.worker->connections) == 0;
}

void move_scene_end(void)
{
    cr_expect(scene.gone == scene.gone_expected);
    scene_pressure(false);
    close(scene.tls.fd);
    tls_destroy(&scene.tls);
    for (size_t i = 0; i < SCENE_STREAMS; i++) {
        if (scene.streams[i].app >= 0)
            close(scene.streams[i].app);
    }
    world_until(no_tunnel, "the tunnel has ended");
    nghttp2_session_del(scene.session);
    tls_buffers_destroy(&buffers);
    tls_context_unref(client_context);
    tls_context_unref(server_context);
    test_ca_free(&ca);
    free(scene.out);
}

/* ---- moving ---- */

static void on_gone(struct moving *moving)
{
    (void)moving;
    scene.gone++;
}

enum tunnel_stays scene_write(struct wire_writer *unit, int *fds, size_t *fds_len)
{
    static struct moving moving = {.gone = on_gone};
    enum tunnel_stays why;

    tunnel_offer(scene.tunnel, &moving);
    moving.late = scene.late;
    why = tunnel_write(scene.tunnel, unit, fds);
    *fds_len = tunnel_move_fds(scene.tunnel);
    if (why != TUNNEL_MOVES) {
        tunnel_withdraw(scene.tunnel);
        return why;
    }
    for (size_t i = 0; i < *fds_len; i++)
        fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
    return why;
}

void scene_stays(enum tunnel_stays expected_why)
{
    struct wire_writer unit = {};
    int fds[SCENE_STREAMS];
    size_t len;
    enum tunnel_stays why = scene_write(&unit, fds, &len);

    cr_assert(why == expected_why && !unit.len, "%s", tunnel_stays_text(why));
    wire_writer_clear(&unit);
}

static struct tunnel_arrival *build(const struct wire_writer *unit, int *fds, size_t fds_len)
{
    struct wire_reader reader = wire_reader(unit->data, unit->len);
    struct tunnel_arrival *arrival = NULL;
    char error[200] = "";
    struct wire_field f;

    cr_assert(wire_next(&reader, &f) == 1 && f.number == BRUMA_UNIT_TUNNEL);
    cr_assert(tunnel_arrival_read(world.worker, f.bytes, f.len, fds, fds_len, begin_request, &arrival, error,
                                  sizeof(error)) == 0,
              "%s", error);
    return arrival;
}

static struct tunnel *newest(void)
{
    struct tunnel *t, *found = NULL;

    list_for_each (t, &world.wp->servers, node)
        found = t;
    for (size_t i = 0; i < array_size(world.wp->clients); i++) {
        list_for_each (t, &world.wp->clients[i], node)
            found = t;
    }
    return found;
}

void scene_read(const struct wire_writer *unit, int *fds, size_t fds_len)
{
    tunnel_arrive(world.worker, build(unit, fds, fds_len));
    scene.tunnel = newest();
    cr_assert(scene.tunnel);
}

void scene_hand_over(void)
{
    struct wire_writer unit = {};
    int fds[SCENE_STREAMS], before, after;
    size_t len;
    enum tunnel_stays why = scene_write(&unit, fds, &len);
    struct tunnel_arrival *arrival;

    cr_assert(why == TUNNEL_MOVES, "%s", tunnel_stays_text(why));
    cr_assert(ioctl(scene.tls.fd, FIONREAD, &before) == 0);
    arrival = build(&unit, fds, len);
    tunnel_release(scene.tunnel);
    tunnel_arrive(world.worker, arrival);
    cr_assert(ioctl(scene.tls.fd, FIONREAD, &after) == 0 && after == before,
              "bytes that are said as a tunnel is built");
    scene.tunnel = newest();
    cr_assert(scene.tunnel);
    scene.handed_over++;
    wire_writer_clear(&unit);
}

void scene_hand_over_in_vain(void)
{
    struct wire_writer unit = {};
    int fds[SCENE_STREAMS];
    size_t len;
    enum tunnel_stays why = scene_write(&unit, fds, &len);

    cr_assert(why == TUNNEL_MOVES, "%s", tunnel_stays_text(why));
    tunnel_arrival_free(build(&unit, fds, len));
    tunnel_thaw(scene.tunnel);
    wire_writer_clear(&unit);
}
