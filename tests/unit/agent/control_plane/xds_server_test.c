/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/xds_server.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proto/discovery.pb-c.h"
#include "lib/proto/workload.pb-c.h"

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest discovery_request;
typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse discovery_response;

#define MAX_RESPONSES 512

/* A client that keeps what it is sent. */
struct client {
    discovery_response *responses[MAX_RESPONSES];
    int len;
    size_t queued;
    enum grpc_status status;
    char text[128];
    bool ended;
};

static int client_send(void *request, const uint8_t *message, size_t len)
{
    struct client *c = request;

    cr_assert(c->len < MAX_RESPONSES);
    c->responses[c->len] =
        envoy__service__discovery__v3__delta_discovery_response__unpack(NULL, len, message);
    cr_assert(c->responses[c->len]);
    c->len++;
    c->queued += len;
    return 0;
}

static size_t client_queued(void *request)
{
    return ((struct client *)request)->queued;
}

static void client_end(void *request, enum grpc_status status, const char *text)
{
    struct client *c = request;

    c->ended = true;
    c->status = status;
    snprintf(c->text, sizeof(c->text), "%s", text);
}

static const struct xds_transport transport = {client_send, client_queued, client_end};

static struct loop *loop;
static struct xds_server *server;
static struct loop_timer stop;

static void on_stop(struct loop_timer *timer)
{
    loop_stop(loop);
}

/* Lets pushes happen. */
static void run(void)
{
    loop_timer_set(loop, &stop, 60);
    loop_run(loop);
}

static void set_up(void)
{
    cr_assert(loop_new(&loop) == 0);
    cr_assert(xds_server_new(loop, &transport, &server) == 0);
    loop_timer_init(&stop, on_stop);
    xds_server_ready(server);
}

static void tear_down(void)
{
    xds_server_free(&server);
    loop_free(&loop);
}

TestSuite(xds_server, .init = set_up, .fini = tear_down);

static void forget(struct client *c)
{
    for (int i = 0; i < c->len; i++)
        envoy__service__discovery__v3__delta_discovery_response__free_unpacked(c->responses[i], NULL);
    c->len = 0;
    c->queued = 0;
}

static void leave(struct xds_stream *stream, struct client *c)
{
    xds_stream_close(stream);
    forget(c);
    run();
}

static void send_request(struct xds_stream *stream, const discovery_request *q)
{
    size_t len = envoy__service__discovery__v3__delta_discovery_request__get_packed_size(q);
    uint8_t *bytes = malloc(len + 1);

    envoy__service__discovery__v3__delta_discovery_request__pack(q, bytes);
    xds_stream_message(stream, bytes, len);
    free(bytes);
    run();
}

struct ask {
    const char *type, *subscribe[4], *unsubscribe[4], *held[4][2], *nonce, *error;
};

static void ask(struct xds_stream *stream, const struct ask *a)
{
    discovery_request q = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
    Envoy__Service__Discovery__V3__Node node = ENVOY__SERVICE__DISCOVERY__V3__NODE__INIT;
    Envoy__Service__Discovery__V3__DeltaDiscoveryRequest__InitialResourceVersionsEntry held[4], *held_list[4];
    Google__Rpc__Status error = GOOGLE__RPC__STATUS__INIT;

    node.id = (char *)"ztunnel~1.1.1.1~a.b~b.svc.cluster.local";
    q.type_url = (char *)a->type;
    if (a->nonce)
        q.response_nonce = (char *)a->nonce;
    else
        q.node = &node;
    if (a->error) {
        error.message = (char *)a->error;
        q.error_detail = &error;
    }
    q.resource_names_subscribe = (char **)a->subscribe;
    while (a->subscribe[q.n_resource_names_subscribe])
        q.n_resource_names_subscribe++;
    q.resource_names_unsubscribe = (char **)a->unsubscribe;
    while (a->unsubscribe[q.n_resource_names_unsubscribe])
        q.n_resource_names_unsubscribe++;
    q.initial_resource_versions = held_list;
    for (int i = 0; i < 4 && a->held[i][0]; i++) {
        envoy__service__discovery__v3__delta_discovery_request__initial_resource_versions_entry__init(
            &held[i]);
        held[i].key = (char *)a->held[i][0];
        held[i].value = (char *)a->held[i][1];
        held_list[q.n_initial_resource_versions++] = &held[i];
    }
    send_request(stream, &q);
}

static struct xds_stream *join(struct client *c, const struct ask *a)
{
    struct xds_stream *stream;

    memset(c, 0, sizeof(*c));
    cr_assert(xds_stream_open(server, c, &stream) == 0);
    ask(stream, a);
    return stream;
}

static struct xds_resources *addresses(void)
{
    return xds_server_resources(server, XDS_ADDRESS);
}

/* The store keeps no copy of messages. */
static void put(const char *name, const char *message)
{
    const struct xds_content content = {
        .name = name, .message = (const uint8_t *)message, .message_len = (uint32_t)strlen(message)};

    cr_assert(xds_resources_put(addresses(), &content) >= 0);
    xds_server_changed(server);
}

static const struct ask everything = {.type = XDS_TYPE_ADDRESS};

Test(xds_server, nothing_to_say_is_said)
{
    struct client c;
    struct xds_stream *stream = join(&c, &everything);

    cr_assert(c.len == 1 && c.responses[0]->n_resources == 0 && c.responses[0]->n_removed_resources == 0);
    cr_assert(!strcmp(c.responses[0]->type_url, XDS_TYPE_ADDRESS) && *c.responses[0]->nonce);
    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .nonce = c.responses[0]->nonce});
    cr_assert(c.len == 1, "an acknowledgement is not answered");
    ask(stream, &(struct ask){.type = XDS_TYPE_AUTHORIZATION});
    cr_assert(c.len == 2 && !strcmp(c.responses[1]->type_url, XDS_TYPE_AUTHORIZATION));
    ask(stream, &(struct ask){.type = "type.googleapis.com/x.Unknown"});
    cr_assert(c.len == 3 && c.responses[2]->n_resources == 0);
    cr_assert(!strcmp(c.responses[2]->type_url, "type.googleapis.com/x.Unknown"));
    leave(stream, &c);
}

Test(xds_server, deltas)
{
    struct client c;
    struct xds_stream *stream;
    char version[32];

    put("a", "one");
    put("b", "two");
    stream = join(&c, &everything);
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 2);
    cr_assert(!strcmp(c.responses[0]->resources[0]->name, "a"));
    cr_assert(!strcmp(c.responses[0]->resources[0]->resource->type_url, XDS_TYPE_ADDRESS));
    cr_assert(c.responses[0]->resources[0]->resource->value.len == 3);
    snprintf(version, sizeof(version), "%s", c.responses[0]->resources[0]->version);
    forget(&c);

    put("a", "one");
    run();
    cr_assert(c.len == 0, "what has not changed is not sent");
    put("a", "three");
    put("c", "new");
    xds_resources_remove(addresses(), "b");
    run();
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 2 && c.responses[0]->n_removed_resources == 1);
    cr_assert(strcmp(c.responses[0]->resources[0]->version, version) != 0);
    cr_assert(!strcmp(c.responses[0]->removed_resources[0], "b"));
    forget(&c);

    put("d", "here");
    xds_resources_remove(addresses(), "d");
    xds_server_changed(server);
    run();
    cr_assert(c.len == 0, "what came and went between two pushes is nobody's business");
    xds_resources_remove(addresses(), "c");
    put("c", "new");
    run();
    cr_assert(c.len == 0, "removed and put again is the same");
    leave(stream, &c);
}

Test(xds_server, a_set_is_replaced)
{
    struct client c;
    struct xds_stream *stream;

    put("a", "one");
    put("b", "two");
    stream = join(&c, &everything);
    forget(&c);
    xds_resources_begin(addresses());
    put("b", "two");
    put("c", "three");
    cr_assert(xds_resources_end(addresses()) == 0);
    run();
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 1 && c.responses[0]->n_removed_resources == 1);
    cr_assert(!strcmp(c.responses[0]->resources[0]->name, "c"));
    cr_assert(!strcmp(c.responses[0]->removed_resources[0], "a"));
    cr_assert(xds_resources_count(addresses()) == 2);
    leave(stream, &c);
}

Test(xds_server, versions_of_an_earlier_stream)
{
    char version[32];
    struct client c;
    struct xds_stream *stream;

    put("a", "one");
    put("b", "two");
    stream = join(&c, &everything);
    snprintf(version, sizeof(version), "%s", c.responses[0]->resources[0]->version);
    leave(stream, &c);

    put("b", "changed");
    stream = join(&c, &(struct ask){.type = XDS_TYPE_ADDRESS,
                                    .held = {{"a", version}, {"b", version}, {"gone", "1"}, {"x//y", ""}}});
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 1, "a is held as it is");
    cr_assert(!strcmp(c.responses[0]->resources[0]->name, "b"));
    cr_assert(c.responses[0]->n_removed_resources == 2);
    forget(&c);
    put("gone", "back");
    run();
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 1 && c.responses[0]->n_removed_resources == 0);
    leave(stream, &c);

    stream = join(&c, &(struct ask){.type = XDS_TYPE_ADDRESS, .held = {{"a", version}}});
    cr_assert(c.responses[0]->n_resources == 2 && c.responses[0]->n_removed_resources == 0);
    leave(stream, &c);
}

Test(xds_server, a_refused_response)
{
    struct client c;
    struct xds_stream *stream;

    put("a", "bad");
    stream = join(&c, &everything);
    cr_assert(c.len == 1);
    ask(stream, &(struct ask){
                    .type = XDS_TYPE_ADDRESS, .nonce = c.responses[0]->nonce, .error = "a: bad \"thing\"\n"});
    cr_assert(xds_server_refused(server) == 1 && !c.ended && c.len == 1,
              "it is not sent again before it changes");
    put("a", "good");
    run();
    cr_assert(c.len == 2);
    leave(stream, &c);
}

Test(xds_server, nobody_hears_of_a_mesh_that_was_not_read)
{
    struct xds_server *other;
    struct client c = {.len = 0};
    struct xds_stream *stream;

    cr_assert(xds_server_new(loop, &transport, &other) == 0);
    cr_assert(xds_stream_open(other, &c, &stream) == 0);
    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .held = {{"a", "1"}}});
    cr_assert(c.len == 0);
    xds_server_ready(other);
    run();
    cr_assert(c.len == 1 && c.responses[0]->n_removed_resources == 1);
    leave(stream, &c);
    xds_server_free(&other);
}

Test(xds_server, large_sets_come_in_pieces)
{
    enum { COUNT = 2345 };
    static char names[COUNT][32];
    struct xds_stream *stream;
    struct client c;
    size_t total = 0;

    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof(names[i]), "resource-%d", i);
        put(names[i], names[i]);
    }
    stream = join(&c, &everything);
    for (int i = 0; i < c.len; i++) {
        cr_assert(c.responses[i]->n_resources <= XDS_RESPONSE_RESOURCES);
        total += c.responses[i]->n_resources;
    }
    cr_assert(c.len == (COUNT + 499) / 500 && total == COUNT, "%d responses, %zu resources", c.len, total);
    cr_assert(!xds_server_refused(server));
    forget(&c);
    for (int i = 0; i < COUNT; i++)
        xds_resources_remove(addresses(), names[i]);
    xds_server_changed(server);
    run();
    cr_assert(c.len == 1 && c.responses[0]->n_removed_resources == COUNT);
    leave(stream, &c);
}

Test(xds_server, a_client_that_does_not_read)
{
    struct xds_stream *stream;
    static char big[900 * 1024];
    struct client c;
    char name[16];
    int before;

    memset(big, 'x', sizeof(big) - 1);
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "big-%d", i);
        put(name, big);
    }
    stream = join(&c, &everything);
    before = c.len;
    cr_assert(c.queued < XDS_QUEUED_BYTES + 2 * XDS_RESPONSE_BYTES, "%zu bytes queued", c.queued);
    run();
    cr_assert(c.len == before, "it is waited for");
    for (int i = 0; i < 50 && c.len < 20; i++) {
        c.queued = 0;
        run();
    }
    cr_assert(c.len >= 10);
    before = 0;
    for (int i = 0; i < c.len; i++)
        before += (int)c.responses[i]->n_resources;
    cr_assert(before == 20, "%d", before);
    leave(stream, &c);
}

Test(xds_server, requests_that_end_the_stream)
{
    discovery_request q = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
    struct client c = {.len = 0};
    struct xds_stream *stream;

    cr_assert(xds_stream_open(server, &c, &stream) == 0);
    xds_stream_message(stream, (const uint8_t *)"\xff\xff\xff", 3);
    cr_assert(c.ended && c.status == GRPC_INVALID_ARGUMENT);
    leave(stream, &c);
    memset(&c, 0, sizeof(c));
    cr_assert(xds_stream_open(server, &c, &stream) == 0);
    q.type_url = (char *)XDS_TYPE_ADDRESS;
    send_request(stream, &q);
    cr_assert(c.ended && c.status == GRPC_INVALID_ARGUMENT && strstr(c.text, "node.id"), "%s", c.text);
    leave(stream, &c);
}

/* ---- clients that ask by name ---- */

struct packed {
    uint8_t bytes[512];
    struct xds_content content;
};

static void put_packed(struct packed *p, const char *name, const ProtobufCMessage *message,
                       enum xds_wrap wrap, bool local)
{
    memset(&p->content, 0, sizeof(p->content));
    p->content.name = name;
    p->content.message = p->bytes;
    p->content.message_len = (uint32_t)protobuf_c_message_pack(message, p->bytes);
    p->content.wrap = wrap;
    p->content.local = local;
    cr_assert(xds_resources_put(addresses(), &p->content) >= 0);
    xds_server_changed(server);
}

static void put_workload(struct packed *p, const char *uid, const char *address, const char *service,
                         bool local)
{
    Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
    Istio__Workload__Workload__ServicesEntry entry = ISTIO__WORKLOAD__WORKLOAD__SERVICES_ENTRY__INIT,
                                             *entries[] = {&entry};
    Istio__Workload__PortList ports = ISTIO__WORKLOAD__PORT_LIST__INIT;
    ProtobufCBinaryData bytes = {4, (uint8_t *)address};

    w.uid = (char *)uid;
    w.addresses = &bytes;
    w.n_addresses = 1;
    entry.key = (char *)service;
    entry.value = &ports;
    w.services = entries;
    w.n_services = service != NULL;
    put_packed(p, uid, &w.base, XDS_WORKLOAD, local);
}

static void put_service(struct packed *p, const char *name, const char *address)
{
    Istio__Workload__Service s = ISTIO__WORKLOAD__SERVICE__INIT;
    Istio__Workload__NetworkAddress vip = ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT, *vips[] = {&vip};

    vip.address = (ProtobufCBinaryData){4, (uint8_t *)address};
    s.addresses = vips;
    s.n_addresses = 1;
    put_packed(p, name, &s.base, XDS_SERVICE, false);
}

static const Envoy__Service__Discovery__V3__Resource *find(const struct client *c, const char *name)
{
    for (int i = 0; i < c->len; i++) {
        for (size_t k = 0; k < c->responses[i]->n_resources; k++) {
            if (!strcmp(c->responses[i]->resources[k]->name, name))
                return c->responses[i]->resources[k];
        }
    }
    return NULL;
}

static const struct ask on_demand = {.type = XDS_TYPE_ADDRESS, .subscribe = {"*"}, .unsubscribe = {"*"}};

Test(xds_server, on_demand)
{
    struct packed far, near, service, late;
    struct client c;
    struct xds_stream *stream;

    put_workload(&far, "uid-far", "\x0a\x00\x00\x01", "n/h", false);
    put_workload(&near, "uid-near", "\x0a\x00\x00\x02", NULL, true);
    put_service(&service, "n/h", "\x0a\x60\x00\x01");
    stream = join(&c, &on_demand);
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 1, "only what lives on this node");
    cr_assert(find(&c, "uid-near"));
    forget(&c);

    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .nonce = "1", .subscribe = {"/10.0.0.1"}});
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 1 && find(&c, "uid-far"));
    cr_assert(find(&c, "uid-far")->n_aliases == 1 && !strcmp(find(&c, "uid-far")->aliases[0], "/10.0.0.1"));
    forget(&c);

    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .nonce = "2", .subscribe = {"/10.0.0.1"}});
    cr_assert(c.len == 1 && find(&c, "uid-far"), "asked again, answered again");
    forget(&c);

    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .nonce = "3", .subscribe = {"/10.0.0.9"}});
    cr_assert(c.len == 1 && c.responses[0]->n_removed_resources == 1);
    cr_assert(!strcmp(c.responses[0]->removed_resources[0], "/10.0.0.9"));
    forget(&c);

    put_workload(&late, "uid-late", "\x0a\x00\x00\x09", "n/h", false);
    run();
    cr_assert(c.len == 1 && find(&c, "uid-late"), "it was asked for before it came");
    xds_resources_remove(addresses(), "uid-late");
    xds_server_changed(server);
    run();
    cr_assert(c.responses[c.len - 1]->n_removed_resources == 1);
    leave(stream, &c);
}

Test(xds_server, on_demand_services_come_with_their_endpoints)
{
    struct packed one, two, service;
    struct client c;
    struct xds_stream *stream;

    put_workload(&one, "uid-1", "\x0a\x00\x00\x01", "n/h", false);
    put_service(&service, "n/h", "\x0a\x60\x00\x01");
    stream = join(&c, &on_demand);
    forget(&c);
    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .nonce = "1", .subscribe = {"/10.96.0.1"}});
    cr_assert(find(&c, "n/h") && find(&c, "uid-1"));
    forget(&c);
    put_workload(&two, "uid-2", "\x0a\x00\x00\x02", "n/h", false);
    run();
    cr_assert(find(&c, "uid-2"), "later ones too");
    leave(stream, &c);

    stream = join(&c, &on_demand);
    forget(&c);
    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .nonce = "1", .subscribe = {"n/h"}});
    cr_assert(find(&c, "n/h") && find(&c, "uid-1") && find(&c, "uid-2"));
    forget(&c);
    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .nonce = "2", .unsubscribe = {"n/h"}});
    xds_resources_remove(addresses(), "n/h");
    put_service(&service, "m/other", "\x0a\x60\x00\x02");
    run();
    cr_assert(!find(&c, "m/other"));
    leave(stream, &c);
}

Test(xds_server, wildcard_switched_on_later)
{
    struct client c;
    struct xds_stream *stream;

    put("a", "one");
    stream = join(&c, &on_demand);
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 0);
    forget(&c);
    ask(stream, &(struct ask){.type = XDS_TYPE_ADDRESS, .nonce = "1", .subscribe = {"*"}});
    cr_assert(c.len == 1 && c.responses[0]->n_resources == 1);
    leave(stream, &c);
}
