/* SPDX-License-Identifier: Apache-2.0 */
/* Any datagram on the agent's socket, read by every reader of fields. */
#include "lib/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"op",     "containerId", "netns",      "ips",         "podUid",
                                       "cookie", "seq",         "generation", "attachments", "draining",
                                       "reason", "uid",         "name",       "namespace"};
    _cleanup_message_ cJSON *message = NULL;
    struct addr addresses[4];
    const char *text;
    uint64_t number;
    int len;

    if (message_parse((const char *)data, size, &message) < 0)
        return 0;
    for (size_t i = 0; i < array_size(keys); i++) {
        if (message_text(message, keys[i], 4096, &text) == 0 && strlen(text) > 4096)
            abort();
        if (message_name(message, keys[i], &text) == 0 && (!*text || strchr(text, '/') || *text == '.'))
            abort();
        if (message_number(message, keys[i], 1000, &number) == 0 && number > 1000)
            abort();
        (void)message_u64(message, keys[i], &number);
        if (message_addresses(message, keys[i], addresses, 4, &len) == 0 && (len < 0 || len > 4))
            abort();
    }
    return 0;
}
