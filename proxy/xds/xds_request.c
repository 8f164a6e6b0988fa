/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/xds/xds_request.h"

#include <errno.h>

#include "proxy/xds/xds_node.h"

/* Fields of DeltaDiscoveryRequest and of google.rpc.Status. */
enum {
    REQUEST_NODE = 1,
    REQUEST_TYPE = 2,
    REQUEST_SUBSCRIBE = 3,
    REQUEST_UNSUBSCRIBE = 4,
    REQUEST_VERSIONS = 5,
    REQUEST_NONCE = 6,
    REQUEST_ERROR = 7
};
enum { STATUS_MESSAGE = 2 };

const char *const xds_type_urls[STATE_TYPES] = {
    [STATE_ADDRESS] = "type.googleapis.com/istio.workload.Address",
    [STATE_AUTHORIZATION] = "type.googleapis.com/istio.security.Authorization",
};

struct first_request {
    struct wire_writer writer;
    size_t bound;
};

bool xds_request_put_version(struct wire_writer *w, size_t bound, const char *name, size_t name_len,
                             const char *version, size_t version_len)
{
    /* Five varints of at most five bytes come with the texts. */
    if (w->len + name_len + version_len + 25 > bound)
        return false;
    wire_put_entry(w, REQUEST_VERSIONS, name, name_len, version, version_len);
    return true;
}

void xds_request_put_nothing(struct wire_writer *w)
{
    wire_put_string(w, REQUEST_SUBSCRIBE, "*");
    wire_put_string(w, REQUEST_UNSUBSCRIBE, "*");
}

static bool put_version(void *data, const char *name, size_t name_len, const char *version,
                        size_t version_len)
{
    struct first_request *t = data;

    return xds_request_put_version(&t->writer, t->bound, name, name_len, version, version_len);
}

static int send_request(struct grpc_call *call, struct wire_writer *w)
{
    int r = w->failed ? -ENOMEM : grpc_call_send(call, w->data, w->len, false);

    wire_writer_clear(w);
    return r;
}

int xds_request_first(struct grpc_call *call, const struct xds_config *config, enum state_type type,
                      struct xds_versions *versions, size_t bound, xds_request_more_fn more, void *data,
                      size_t *ret_len)
{
    struct first_request t = {.bound = bound};
    struct wire_writer node = {};

    xds_node_write(&node, config);
    wire_put_message(&t.writer, REQUEST_NODE, &node);
    wire_put_string(&t.writer, REQUEST_TYPE, xds_type_urls[type]);
    if (more)
        more(data, &t.writer, t.bound);
    xds_versions_each(versions, put_version, &t); /* behind the keys: of a name that is one, this counts */
    *ret_len = t.writer.len;
    return send_request(call, &t.writer);
}

int xds_request_names(struct grpc_call *call, bool subscribe, char *const names[], size_t len)
{
    struct wire_writer w = {};

    wire_put_string(&w, REQUEST_TYPE, xds_type_urls[STATE_ADDRESS]);
    /* To a request that subscribes to nothing istiod answers that all the rest has been removed. */
    if (!subscribe)
        wire_put_string(&w, REQUEST_SUBSCRIBE, XDS_NO_NAME);
    for (size_t i = 0; i < len; i++)
        wire_put_string(&w, subscribe ? REQUEST_SUBSCRIBE : REQUEST_UNSUBSCRIBE, names[i]);
    return send_request(call, &w);
}

int xds_request_acknowledge(struct grpc_call *call, const struct wire_field *type,
                            const struct wire_field *nonce, const char *error)
{
    struct wire_writer w = {}, status = {};

    wire_put_bytes(&w, REQUEST_TYPE, type->bytes, type->len);
    if (nonce->bytes)
        wire_put_bytes(&w, REQUEST_NONCE, nonce->bytes, nonce->len);
    if (*error) {
        wire_put_string(&status, STATUS_MESSAGE, error);
        wire_put_message(&w, REQUEST_ERROR, &status);
    }
    return send_request(call, &w);
}
