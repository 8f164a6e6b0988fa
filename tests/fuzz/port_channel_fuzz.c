/* SPDX-License-Identifier: Apache-2.0 */
/* What an API server sends as a forwarded port, in two parts; and its answer before that. */
#include <stdint.h>
#include <stdlib.h>

#include "ctl/kube/port_channel.h"
#include "ctl/kube/upgrade_answer.h"

static void take(struct port_channel *channel, const uint8_t *data, size_t size)
{
    struct port_event event;
    unsigned char pong[PORT_CHANNEL_OVERHEAD + 125];

    if (port_channel_feed(channel, data, size) < 0)
        return;
    while (port_channel_next(channel, &event) > 0) {
        volatile unsigned char sum = 0;

        for (size_t i = 0; i < event.len; i++)
            sum = (unsigned char)(sum + event.bytes[i]);
        if (event.type == PORT_PING && port_channel_pong(&event, pong) > sizeof(pong))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t first = size ? data[0] % size : 0;
    struct port_channel channel = {};
    struct upgrade_answer answer;

    take(&channel, data, first);
    take(&channel, data + first, size - first);
    port_channel_free(&channel);
    for (int last = 0; last < 2; last++) {
        if (upgrade_answer_read(data, size, last, &answer) == 1 && answer.len > size)
            abort();
    }
    return 0;
}
