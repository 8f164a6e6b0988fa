/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/connection/pending_scene.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/connection/outbound.h"
#include "proxy/connection/plaintext.h"
#include "proxy/identity/identity_store.h"
#include "proxy/pod/pod.h"
#include "tests/unit/certificates.h"

int client = -1, server = -1, listener = -1;
static bool echoed; /* by the connection of now */

void scene_begin(void)
{
    world_begin();
}

void scene_end(void)
{
    int fds[] = {client, server, listener};

    for (size_t i = 0; i < array_size(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    world_end();
}

/* The application's connection to that address; port 0: the one of listener. */
void go_out(const char *address, uint16_t port)
{
    struct endpoint from, to = {.port = port};
    int fd;

    if (!port)
        listener = world_listen(address, 0, &to);
    else
        cr_assert(addr_parse(address, &to.addr) == 0);
    client = world_connect(&fd, &from);
    echoed = false;
    outbound_accept(world.wp, fd, &from, &to);
}

/* A connection from outside to that port of the pod; 0: the one of listener, which is its application. */
void come_in(uint16_t port)
{
    struct endpoint from, to = {.port = port};
    int fd;

    if (!port)
        listener = world_listen(WORLD_POD, 0, &to);
    else
        cr_assert(addr_parse(WORLD_POD, &to.addr) == 0);
    client = world_connect(&fd, &from);
    plaintext_accept(world.wp, fd, &from, &to, &to);
}

bool served(void)
{
    if (server < 0)
        server = accept(listener, NULL, NULL);
    return server >= 0;
}

bool was_reset(void)
{
    char byte;

    return recv(client, &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET;
}

bool none_left(void)
{
    return world_connections() == 0;
}

bool passes(void)
{
    char byte;

    if (recv(server, &byte, 1, MSG_DONTWAIT) == 1)
        cr_assert(send(server, &byte, 1, MSG_NOSIGNAL) == 1);
    echoed = echoed || recv(client, &byte, 1, MSG_DONTWAIT) == 1;
    return echoed;
}

/* A byte goes there and back, then both end. */
void is_a_relay(void)
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

void is_refused(void)
{
    world_until(was_reset, "the client sees a reset");
    cr_expect(none_left() && world_waiting() == 0);
}

void waits(void)
{
    cr_assert(world_connections() == 1 && world_waiting() == 1);
    cr_expect(!was_reset());
}

void mesh_knows_the_pod(const char *policy)
{
    WORKLOAD(world.proxy.state, .name = "web", .node = "node-a", .addresses = {WORLD_POD},
             .account = "default", .policies = {policy});
    world_commit(policy != NULL);
}

void mesh_knows_a_peer(void)
{
    WORKLOAD(world.proxy.state, .name = "cart", .node = "node-b", .addresses = {WORLD_SILENT});
    world_commit(false);
}

void mesh_has_policy(bool allows)
{
    POLICY(world.proxy.state, .name = "rule", .scope = 2, .action = allows ? 0 : 1, .rules_len = 1,
           .rules = {{.clauses_len = 1,
                      .clauses = {{.matches_len = 1, .matches = {{.source_ips = {"192.0.2.0/24"}}}}}}});
    world_commit(true);
}

/* As from the CA. */
void certificate_comes(void)
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

void knows_who_it_is(void)
{
    mesh_knows_the_pod(NULL);
    mesh_knows_a_peer();
    pods_state_changed(&world.proxy);
}
