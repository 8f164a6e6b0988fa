/* SPDX-License-Identifier: Apache-2.0 */
/* Values of resources, and the names besides their own under which clients ask for them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control_plane/xds_resources_private.h"
#include "lib/addr.h"
#include "lib/proto/workload.pb-c.h"

#define KEY_MAX 9000 /* a network's name is at most a scalar of the mesh file */

static size_t put_varint(uint8_t *p, size_t n)
{
    size_t len = 0;

    for (; n >= 0x80; n >>= 7)
        p[len++] = (uint8_t)(n | 0x80);
    p[len++] = (uint8_t)n;
    return len;
}

int xds_encode(const struct xds_resource *resource, uint8_t **ret, size_t *ret_len)
{
    size_t body = (size_t)resource->message_len + resource->tail_len, len = 0;
    uint8_t *value = malloc(body + 12);

    if (!value)
        return -ENOMEM;
    if (resource->wrap != XDS_PLAIN) {
        value[len++] = (uint8_t)resource->wrap;
        len += put_varint(value + len, body);
    }
    if (resource->message_len)
        memcpy(value + len, resource->message, resource->message_len);
    len += resource->message_len;
    if (resource->tail_len)
        memcpy(value + len, resource->tail, resource->tail_len);
    *ret = value;
    *ret_len = len + resource->tail_len;
    return 0;
}

/* length < 0: a single address. */
static bool address_key(const struct xds_resource *resource, const char *network,
                        const ProtobufCBinaryData *bytes, int length, xds_key_fn fn, void *data)
{
    char key[KEY_MAX], text[ADDR_TEXT_LEN];
    struct addr addr;

    if (addr_from_bytes(bytes->data, bytes->len, &addr) < 0)
        return false;
    if (length < 0)
        snprintf(key, sizeof(key), "%s/%s", network, addr_format(&addr, text));
    else
        snprintf(key, sizeof(key), "%s/%s/%d", network, addr_format(&addr, text), length);
    return fn(data, resource, key, true);
}

static bool workload_keys(const struct xds_resource *resource, const Istio__Workload__Workload *w,
                          xds_key_fn fn, void *data)
{
    for (size_t i = 0; i < w->n_addresses; i++) {
        if (address_key(resource, w->network, &w->addresses[i], -1, fn, data))
            return true;
    }
    for (size_t i = 0; i < w->n_services; i++) {
        if (fn(data, resource, w->services[i]->key, false))
            return true;
    }
    return false;
}

static bool service_keys(const struct xds_resource *resource, const Istio__Workload__Service *s,
                         xds_key_fn fn, void *data)
{
    for (size_t i = 0; i < s->n_addresses; i++) {
        const Istio__Workload__NetworkAddress *a = s->addresses[i];
        bool range = a->prefix_case == ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;

        if (address_key(resource, a->network, &a->address, range ? (int)a->length : -1, fn, data))
            return true;
    }
    return false;
}

bool xds_keys(const struct xds_resource *resource, xds_key_fn fn, void *data)
{
    Istio__Workload__Address *address = NULL;
    bool stopped = false;
    uint8_t *value;
    size_t len;

    if (resource->wrap == XDS_PLAIN || xds_encode(resource, &value, &len) < 0)
        return false;
    address = istio__workload__address__unpack(NULL, len, value);
    free(value);
    if (!address)
        return false;
    if (address->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD)
        stopped = workload_keys(resource, address->workload, fn, data);
    else if (address->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE)
        stopped = service_keys(resource, address->service, fn, data);
    istio__workload__address__free_unpacked(address, NULL);
    return stopped;
}
