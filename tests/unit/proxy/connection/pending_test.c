/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of an accepted connection: a stream, a relay, or nothing; and what it waits for until then. */
#include "proxy/connection/pending.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "proxy/connection/outbound.h"
#include "proxy/connection/plaintext.h"
#include "proxy/connection/worker_post.h"
#include "proxy/hbone/tunnel.h"
#include "proxy/identity/identity_store.h"
#include "tests/unit/certificates.h"
#include "tests/unit/proxy/connection/worker_world.h"
#include "tests/unit/proxy/mesh_samples.h"

#define FAILURES(reason) world_metric("bruma_failures_total{reason=\"" reason "\"}")
#define OPENED           world_metric("istio_tcp_connections_opened_total")
#define CLOSED           world_metric("istio_tcp_connections_closed_total")
#define POLICY_WAITS     world_metric("bruma_policy_waits_total")

static int client = -1, server = -1, listener = -1;

static void begin(void)
{
    world_begin();
}

static void end(void)
{
    int fds[] = {client, server, listener};

    for (size_t i = 0; i < array_size(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    world_end();
}

TestSuite(pending, .init = begin, .fini = end, .timeout = 60);

/* ---- what tests do and see ---- */

/* The application's connection to that address; port 0: the one of listener. */
static void go_out(const char *address, uint16_t port)
{
    struct endpoint from, to = {.port = port};
    int fd;

    if (!port)
        listener = world_listen(address, &to);
    else
        cr_assert(addr_parse(address, &to.addr) == 0);
    client = world_connect(&fd, &from);
    outbound_accept(world.wp, fd, &from, &to);
}

/* A connection from outside to that port of the pod; 0: the one of listener, which is its application. */
static void come_in(uint16_t port)
{
    struct endpoint from, to = {.port = port};
    int fd;

    if (!port)
        listener = world_listen(WORLD_POD, &to);
    else
        cr_assert(addr_parse(WORLD_POD, &to.addr) == 0);
    client = world_connect(&fd, &from);
    plaintext_accept(world.wp, fd, &from, &to, &to);
}

static bool served(void)
{
    if (server < 0)
        server = accept(listener, NULL, NULL);
    return server >= 0;
}

static bool was_reset(void)
{
    char byte;

    return recv(client, &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET;
}

static bool none_left(void)
{
    return world_connections() == 0;
}

static bool echoed;

static bool passes(void)
{
    char byte;

    if (recv(server, &byte, 1, MSG_DONTWAIT) == 1)
        cr_assert(send(server, &byte, 1, MSG_NOSIGNAL) == 1);
    echoed = echoed || recv(client, &byte, 1, MSG_DONTWAIT) == 1;
    return echoed;
}

/* A byte goes there and back, then both end. */
static void is_a_relay(void)
{
    world_until(served, "the other side has a connection");
    cr_assert(send(client, "x", 1, MSG_NOSIGNAL) == 1);
    world_until(passes, "a byte goes there and back");
    cr_expect(world_connections() == 1 && world_waiting() == 0);
    close(client);
    close(server);
    client = server = -1;
    world_until(none_left, "the relay ends");
    cr_expect(OPENED == 1 && CLOSED == 1, "opened %g, closed %g", OPENED, CLOSED);
}

static void is_refused(void)
{
    world_until(was_reset, "the client sees a reset");
    cr_expect(none_left() && world_waiting() == 0);
}

static void waits(void)
{
    cr_assert(world_connections() == 1 && world_waiting() == 1);
    cr_expect(!was_reset());
}

static void mesh_knows_the_pod(const char *policy)
{
    WORKLOAD(world.proxy.state, .name = "web", .node = "node-a", .addresses = {WORLD_POD},
             .account = "default", .policies = {policy});
    world_commit(policy != NULL);
}

static void mesh_knows_a_peer(void)
{
    WORKLOAD(world.proxy.state, .name = "cart", .node = "node-b", .addresses = {WORLD_SILENT});
    world_commit(false);
}

static void mesh_has_policy(bool allows)
{
    POLICY(world.proxy.state, .name = "rule", .scope = 2, .action = allows ? 0 : 1, .rules_len = 1,
           .rules = {{.clauses_len = 1,
                      .clauses = {{.matches_len = 1, .matches = {{.source_ips = {WORLD_CLIENT "/32"}}}}}}});
    world_commit(true);
}

/* ---- of the pod's applications ---- */

Test(pending, becomes_a_relay_at_once)
{
    go_out(WORLD_FAR, 0);
    cr_expect(world_waiting() == 0, "what needs nothing is not kept");
    is_a_relay();
    cr_expect(world_metric("bruma_failures_total") == 0);
}

Test(pending, becomes_a_relay_that_nobody_answers)
{
    world.proxy.settings.connect_timeout = 100;
    go_out(WORLD_SILENT, 9);
    cr_expect(world_connections() == 1 && world_waiting() == 0);
    is_refused();
    cr_expect(FAILURES("connect_timeout") == 1 && OPENED == 1 && CLOSED == 1);
}

Test(pending, waits_for_its_certificate_in_vain)
{
    mesh_knows_the_pod(NULL);
    mesh_knows_a_peer();
    go_out(WORLD_SILENT, 8080);
    waits();
    world_commit(false);
    waits();
    cr_expect(OPENED == 0, "telemetry hears of it when it goes on");
    is_refused();
    cr_expect(FAILURES("identity_unavailable") == 1 && OPENED == 1 && CLOSED == 1);
}

Test(pending, waits_while_nobody_knows_who_it_is)
{
    mesh_knows_a_peer();
    go_out(WORLD_SILENT, 8080);
    waits();
    is_refused();
    cr_expect(FAILURES("source_unknown") == 1 && OPENED == 0);
}

static struct tunnel *only_tunnel(void)
{
    for (size_t i = 0; i < array_size(world.wp->clients); i++) {
        if (!list_empty(&world.wp->clients[i]))
            return list_first(&world.wp->clients[i], struct tunnel, node);
    }
    return NULL;
}

/* As from the CA. */
static void certificate_comes(void)
{
    const char *uri = "spiffe://cluster.local/ns/shop/sa/default";
    struct identity *identity = world.pod->identity;
    struct test_ca ca = test_ca();
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    X509 *cert = test_certificate(key, ca.cert, ca.key,
                                  "critical,URI:spiffe://cluster.local/ns/shop/sa/default", -60, 3600);
    char *leaf = test_pem(cert), error[200];
    const char *chain[] = {leaf}, *roots[] = {ca.pem};
    struct tls_context *context;

    cr_assert(identity && !strcmp(identity_uri(identity), uri));
    cr_assert(tls_context_new(uri, key, chain, 1, roots, 1, &context, error, sizeof(error)) == 0, "%s",
              error);
    current_certificate_set(&identity->current, context);
    free(leaf);
    X509_free(cert);
    EVP_PKEY_free(key);
    test_ca_free(&ca);
    world_commit(false);
}

static void knows_who_it_is(void)
{
    mesh_knows_the_pod(NULL);
    mesh_knows_a_peer();
    pods_state_changed(&world.proxy);
}

Test(pending, becomes_a_stream_at_once)
{
    knows_who_it_is();
    certificate_comes();
    go_out(WORLD_SILENT, 8080);
    cr_expect(world_waiting() == 0 && world_connections() == 1 && OPENED == 1);
    cr_assert(only_tunnel() && only_tunnel()->queue_len == 1);
}

Test(pending, becomes_a_stream_once_its_certificate_is_there)
{
    knows_who_it_is();
    go_out(WORLD_SILENT, 8080);
    waits();
    cr_expect(only_tunnel() == NULL);
    certificate_comes();
    cr_expect(world_waiting() == 0 && world_connections() == 1 && OPENED == 1);
    cr_assert(only_tunnel() && only_tunnel()->queue_len == 1);
    cr_expect(only_tunnel()->peer.port == BRUMA_PORT_HBONE);
}

Test(pending, goes_where_the_mesh_says_when_it_has_waited)
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
    certificate_comes();
    cr_expect(only_tunnel() == NULL);
    world_until(served, "it is plain by now");
}

Test(pending, is_one_of_the_listeners_own)
{
    go_out("127.0.0.1", 8080);
    is_refused();
    cr_expect(FAILURES("self_call") == 1);
}

Test(pending, is_one_too_many)
{
    world.proxy.settings.max_pod_descriptors = 0;
    go_out(WORLD_FAR, 0);
    is_refused();
    cr_expect(FAILURES("pod_descriptors") == 1);
}

/* ---- from outside, without a tunnel ---- */

Test(pending, waits_for_its_pod_to_be_known)
{
    come_in(0);
    waits();
    mesh_knows_the_pod(NULL);
    cr_expect(POLICY_WAITS == 0);
    is_a_relay();
}

Test(pending, waits_for_its_pod_in_vain)
{
    come_in(0);
    waits();
    is_refused();
    cr_expect(FAILURES("source_unknown") == 1 && OPENED == 0);
}

Test(pending, waits_for_the_pod_then_for_a_policy)
{
    come_in(0);
    waits();
    mesh_knows_the_pod("shop/rule");
    waits();
    cr_expect(POLICY_WAITS == 1);
    world_commit(true);
    waits();
    cr_expect(POLICY_WAITS == 1, "it is counted once");
    mesh_has_policy(true);
    is_a_relay();
}

Test(pending, waits_for_a_policy_that_denies)
{
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    mesh_has_policy(false);
    is_refused();
    cr_expect(FAILURES("policy_denied") == 1 && OPENED == 1 && CLOSED == 1);
}

Test(pending, waits_for_a_policy_in_vain)
{
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    is_refused();
    cr_expect(FAILURES("policy_missing") == 1 && OPENED == 1 && CLOSED == 1);
}

Test(pending, waits_for_a_policy_for_as_long_as_is_set)
{
    world.proxy.settings.source_timeout = 1;
    world.proxy.settings.policy_timeout = 60000;
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    world_run(100);
    waits();
    mesh_has_policy(true);
    is_a_relay();
}

Test(pending, passes_without_a_policy_that_is_missing_if_that_is_set)
{
    state_set_unknown_policy(world.proxy.state, false);
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    is_a_relay();
}

Test(pending, waits_for_a_policy_of_a_pod_that_goes_from_the_mesh)
{
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    state_remove(world.proxy.state, STATE_ADDRESS, "Kubernetes//Pod/shop/web");
    world_commit(false);
    is_refused();
    cr_expect(FAILURES("source_unknown") == 1 && OPENED == 0);
}

Test(pending, is_allowed_or_denied_at_once)
{
    mesh_knows_the_pod("shop/rule");
    mesh_has_policy(true);
    come_in(0);
    cr_expect(world_waiting() == 0);
    is_a_relay();
    mesh_has_policy(false);
    close(listener);
    come_in(0);
    cr_expect(world_waiting() == 0);
    is_refused();
    cr_expect(FAILURES("policy_denied") == 1);
}

Test(pending, is_for_a_port_of_the_proxy)
{
    come_in(BRUMA_PORT_HBONE);
    is_refused();
    cr_expect(FAILURES("self_call") == 1);
}

Test(pending, is_not_for_the_pod)
{
    struct endpoint from, to = sample_endpoint(WORLD_SILENT ":80"),
                          arrival = sample_endpoint(WORLD_POD ":80");
    int fd;

    client = world_connect(&fd, &from);
    plaintext_accept(world.wp, fd, &from, &to, &arrival);
    is_refused();
    cr_expect(FAILURES("not_of_pod") == 1);
}

/* ---- ends while it waits ---- */

Test(pending, has_a_client_that_goes_while_it_waits)
{
    come_in(0);
    waits();
    close(client);
    client = -1;
    world_run(50);
    waits();
    mesh_knows_the_pod(NULL);
    world_until(served, "what the client has sent may still be wanted");
    close(server);
    server = -1;
    world_until(none_left, "the relay ends");
}

Test(pending, has_a_client_that_goes_and_waits_in_vain)
{
    come_in(0);
    waits();
    close(client);
    client = -1;
    world_until(none_left, "its time is over");
    cr_expect(FAILURES("source_unknown") == 1);
}

Test(pending, has_a_pod_that_goes_while_it_waits)
{
    come_in(0);
    waits();
    world_delete_pod();
    cr_expect(was_reset());
    cr_expect(FAILURES("pod_removed") == 1 && OPENED == 0);
}

Test(pending, has_a_worker_that_ends_while_it_waits)
{
    mesh_knows_a_peer();
    go_out(WORLD_SILENT, 8080);
    waits();
    world_end_worker();
    cr_expect(was_reset());
    cr_expect(FAILURES("drain_deadline") == 1 && OPENED == 0);
}

Test(pending, has_a_drain_that_ends_while_it_waits)
{
    come_in(0);
    waits();
    worker_drain(world.worker);
    world_run(20);
    waits();
    worker_abort_connections(world.worker);
    is_refused();
    cr_expect(FAILURES("drain_deadline") == 1 && OPENED == 0);
}

Test(pending, is_many)
{
    int clients[100];

    for (size_t i = 0; i < array_size(clients); i++) {
        come_in(8080);
        clients[i] = client;
    }
    client = -1;
    cr_expect(world_waiting() == 100 && world_connections() == 100);
    world_until(none_left, "their time is over");
    cr_expect(FAILURES("source_unknown") == 100);
    for (size_t i = 0; i < array_size(clients); i++)
        close(clients[i]);
}
