/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "xds"
#include "proxy/xds/local_xds.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/mesh_file/mesh_file.h"
#include "proxy/state/state.h"

#define FIELD_WORKLOAD 0x0a /* of istio.workload.Address */
#define FIELD_SERVICE  0x12
#define HEAD_MAX       6 /* a tag and a length of 32 bits */

/* The end of a workload that takes HBONE: tunnel_protocol. */
static const uint8_t takes_hbone[] = {0x28, TUNNEL_HBONE};

struct given_item {
    enum state_type type;
    const char *name;
    const uint8_t *message;
    size_t message_len;
    uint8_t field; /* that it is in; 0: none */
    bool hbone;
};

static size_t put_head(uint8_t *to, uint8_t field, size_t len)
{
    size_t n = 0;

    to[n++] = field;
    for (; len >= 0x80; len >>= 7)
        to[n++] = (uint8_t)(len | 0x80);
    to[n++] = (uint8_t)len;
    return n;
}

/* As the control plane would send it. */
static int apply(struct state *state, const struct given_item *item, char *error, size_t size)
{
    size_t tail_len = item->hbone ? sizeof(takes_hbone) : 0, len = 0;
    _cleanup_free_ uint8_t *value = malloc(HEAD_MAX + item->message_len + tail_len);

    if (!value)
        return -ENOMEM;
    if (item->field)
        len = put_head(value, item->field, item->message_len + tail_len);
    if (item->message_len)
        memcpy(value + len, item->message, item->message_len);
    len += item->message_len;
    memcpy(value + len, takes_hbone, tail_len);
    return state_apply(state, item->type, item->name, value, len + tail_len, error, size);
}

/* Workloads last: they find their services and policies. */
static int apply_all(struct state *state, const struct mesh_file *file, const char **ret_name, char *error,
                     size_t size)
{
    int r = 0;

    for (size_t i = 0; i < file->policies_len && r == 0; i++) {
        const struct mesh_policy *p = &file->policies[i];

        *ret_name = p->name;
        r = apply(state,
                  &(struct given_item){STATE_AUTHORIZATION, p->name, p->message, p->message_len, 0, false},
                  error, size);
    }
    for (size_t i = 0; i < file->services_len && r == 0; i++) {
        const struct mesh_service *s = &file->services[i];

        *ret_name = s->name;
        r = apply(
            state,
            &(struct given_item){STATE_ADDRESS, s->name, s->message, s->message_len, FIELD_SERVICE, false},
            error, size);
    }
    for (size_t i = 0; i < file->workloads_len && r == 0; i++) {
        const struct mesh_workload *w = &file->workloads[i];

        *ret_name = w->uid;
        r = apply(state,
                  &(struct given_item){STATE_ADDRESS, w->uid, w->message, w->message_len, FIELD_WORKLOAD,
                                       w->protocol == MESH_PROTOCOL_HBONE},
                  error, size);
    }
    return r;
}

int local_xds_load(struct state *state, const struct local_xds *local, char *error, size_t error_size)
{
    cleanup(mesh_file_free) struct mesh_file *file = NULL;
    const char *setting = *local->path ? "LOCAL_XDS_PATH" : "LOCAL_XDS", *name = "";
    struct mesh_file_error wrong;
    char why[256] = "";
    int r;

    if (!*local->path && !*local->text)
        return 0;
    r = *local->path ? mesh_file_load_part(local->path, local->trust_domain, &file, &wrong)
                     : mesh_file_parse_part("LOCAL_XDS", local->text, strlen(local->text),
                                            local->trust_domain, &file, &wrong);
    if (r < 0) {
        snprintf(error, error_size, "%s%s%s", *local->path ? setting : "", *local->path ? ": " : "",
                 wrong.text);
        return r;
    }
    r = apply_all(state, file, &name, why, sizeof(why));
    if (r < 0) {
        snprintf(error, error_size, "%s: %s: %s", setting, name, *why ? why : strerror(-r));
        return r;
    }
    state_commit(state);
    log_info("mesh state given beside the control plane\tsetting=%s workloads=%zu services=%zu policies=%zu",
             setting, file->workloads_len, file->services_len, file->policies_len);
    return 0;
}
