/* SPDX-License-Identifier: Apache-2.0 */
/* A CONNECT request's :authority and, behind the first newline, its Forwarded header. */
#include <stdlib.h>
#include <string.h>

#include "proxy/route/authority.h"
#include "proxy/route/route.h"
#include "proxy/state/state.h"

/* A workload "w" at 10.1.0.9 of the service a/b with port 80, and that service. */
static const uint8_t workload[] = "\x0a\x1e\x0a\x01w\x12\x01n\x1a\x04\x0a\x01\x00\x09\xa2\x01\x01u"
                                  "\xb2\x01\x0b\x0a\x03"
                                  "a/b\x12\x04\x0a\x02\x08\x50";
static const uint8_t service[] = "\x12\x10\x0a\x01s\x12\x01"
                                 "a\x1a\x01"
                                 "b\x2a\x05\x08\x50\x10\x90\x3f";

static struct state *state;

static void make_state(void)
{
    char error[128];

    if (state_new("", "", NULL, NULL, &state) < 0 ||
        state_apply(state, STATE_ADDRESS, "", workload, sizeof(workload) - 1, error, sizeof(error)) < 0 ||
        state_apply(state, STATE_ADDRESS, "", service, sizeof(service) - 1, error, sizeof(error)) < 0)
        abort();
    state_commit(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *newline = memchr(data, '\n', size);
    size_t len = newline ? (size_t)(newline - data) : size;
    struct endpoint arrival = {.port = 15008};
    struct inbound_target target;
    struct authority authority;
    const struct workload *local;

    if (!state)
        make_state();
    addr_parse("10.1.0.9", &arrival.addr);
    local = state_workload_by_address(state, &arrival.addr);
    if (!local)
        abort();
    route_inbound(state, local, &arrival, (const char *)data, len, newline ? (const char *)newline + 1 : NULL,
                  newline ? size - len - 1 : 0, &target);
    if (authority_parse((const char *)data, len, &authority) < 0 && target.status != 400)
        abort();
    if (target.status == 200 && !addr_equal(&target.target.addr, &arrival.addr))
        abort();
    service_unref(target.service);
    return 0;
}
