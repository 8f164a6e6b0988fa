/* SPDX-License-Identifier: Apache-2.0 */
/* What clients send on a stream of the control plane, several messages in a row, each behind its length in
 * two bytes. */
#include <stdlib.h>
#include <string.h>

#include "agent/control_plane/xds_server.h"
#include "lib/log.h"
#include "lib/proto/workload.pb-c.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static uint8_t workload[128], service[128];
static uint32_t workload_len, service_len;

static int drop(void *request, const uint8_t *message, size_t len)
{
    return 0;
}

static size_t none(void *request)
{
    return 0;
}

static void ended(void *request, enum grpc_status status, const char *text)
{
    *(bool *)request = true;
}

static const struct xds_transport transport = {drop, none, ended};

static void on_stop(void *data)
{
    loop_stop(loop);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
    Istio__Workload__Workload__ServicesEntry entry = ISTIO__WORKLOAD__WORKLOAD__SERVICES_ENTRY__INIT,
                                             *entries = &entry;
    Istio__Workload__PortList ports = ISTIO__WORKLOAD__PORT_LIST__INIT;
    Istio__Workload__Service s = ISTIO__WORKLOAD__SERVICE__INIT;
    Istio__Workload__NetworkAddress vip = ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT, *vips = &vip;
    ProtobufCBinaryData address = {4, (uint8_t *)"\x0a\0\0\1"};

    entry.key = (char *)"n/h";
    entry.value = &ports;
    w.addresses = &address;
    w.n_addresses = 1;
    w.services = &entries;
    w.n_services = 1;
    vip.address = address;
    s.addresses = &vips;
    s.n_addresses = 1;
    workload_len = (uint32_t)istio__workload__workload__pack(&w, workload);
    service_len = (uint32_t)istio__workload__service__pack(&s, service);
    (void)log_set_filter("off");
    return loop_new(&loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct xds_content contents[] = {
        {.name = "uid",
         .message = workload,
         .message_len = workload_len,
         .wrap = XDS_WORKLOAD,
         .local = true},
        {.name = "n/h", .message = service, .message_len = service_len, .wrap = XDS_SERVICE}};
    struct xds_server *server;
    struct xds_stream *stream;
    bool over = false;

    if (xds_server_new(loop, &transport, &server) < 0 || xds_stream_open(server, &over, &stream) < 0)
        abort();
    for (size_t i = 0; i < 2; i++) {
        if (xds_resources_put(xds_server_resources(server, XDS_ADDRESS), &contents[i]) < 0)
            abort();
    }
    xds_server_ready(server);
    while (size >= 2 && !over) {
        size_t len = (size_t)(data[0] << 8 | data[1]);

        len = len > size - 2 ? size - 2 : len;
        xds_stream_message(stream, data + 2, len);
        xds_server_push(server);
        data += 2 + len;
        size -= 2 + len;
    }
    xds_resources_remove(xds_server_resources(server, XDS_ADDRESS), "uid");
    xds_server_push(server);
    xds_stream_close(stream);
    /* One turn, in which the stream's memory is freed. */
    if (loop_post(loop, on_stop, NULL) == 0)
        (void)loop_run(loop);
    xds_server_free(&server);
    return 0;
}
