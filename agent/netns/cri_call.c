/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/netns/cri_call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/rpc/grpc.h"

#define CALL_MS     3000
#define MESSAGE_MAX (16u * 1024 * 1024)

struct call {
    struct loop *loop;
    struct grpc_channel *channel;
    const ProtobufCMessageDescriptor *type;
    ProtobufCMessage *answer; /* the first; NULL: none came, or no one of its type */
    unsigned answers;
    enum grpc_status status;
    char text[256];
};

static void on_message(void *data, const uint8_t *message, size_t len)
{
    struct call *call = data;

    if (call->answers++ == 0)
        call->answer = protobuf_c_message_unpack(call->type, NULL, len, message);
}

static void on_end(void *data, enum grpc_status status, const char *text)
{
    struct call *call = data;

    call->status = status;
    snprintf(call->text, sizeof(call->text), "%s", text);
    loop_stop(call->loop);
}

static int start(struct call *call, const char *socket, const char *path, const ProtobufCMessage *request)
{
    static const struct grpc_call_events events = {.message = on_message, .end = on_end};
    struct grpc_channel_config config = {.unix_path = socket, .max_message = MESSAGE_MAX};
    size_t len = protobuf_c_message_get_packed_size(request);
    _cleanup_free_ uint8_t *message = malloc(len + 1);
    struct grpc_call *opened = NULL;
    int r = message ? loop_new(&call->loop) : -ENOMEM;

    if (r == 0)
        r = grpc_channel_open(call->loop, &config, NULL, NULL, &call->channel);
    if (r == 0)
        r = grpc_call_open(call->channel, path, NULL, 0, CALL_MS, &events, call, &opened);
    if (r != 0)
        return r;
    protobuf_c_message_pack(request, message);
    return grpc_call_send(opened, message, len, true);
}

/* Words on an answer that is not OK and one message; NULL if it is. */
static const char *fault_of(const struct call *call)
{
    if (call->status != GRPC_OK)
        return call->text;
    if (call->answers != 1)
        return call->answers ? "more than one message" : "no message";
    return call->answer ? NULL : "no message of its kind";
}

int cri_call(const char *socket, const char *path, const ProtobufCMessage *request,
             const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret, char error[CRI_ERROR_SIZE])
{
    struct call call = {.type = type};
    int r = start(&call, socket, path, request);
    const char *fault;

    if (r == 0)
        r = loop_run(call.loop);
    /* Its calls go with it. */
    grpc_channel_close(&call.channel);
    loop_free(&call.loop);
    if (r < 0) {
        char text[96];

        snprintf(error, CRI_ERROR_SIZE, "%s", strerror_r(-r, text, sizeof(text)));
    } else if ((fault = fault_of(&call))) {
        snprintf(error, CRI_ERROR_SIZE, "gRPC status %d: %s", (int)call.status, fault);
        r = call.status == GRPC_DEADLINE_EXCEEDED ? -ETIMEDOUT : -EPROTO;
    } else {
        *ret = call.answer;
        return 0;
    }
    if (call.answer)
        protobuf_c_message_free_unpacked(call.answer, NULL);
    return r;
}
