/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "worker"
#include "proxy/tls/shared_buffer.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/log.h"

int shared_buffer_init(struct shared_buffer *buffer, const char *name, size_t size)
{
    *buffer = (struct shared_buffer){.data = malloc(size), .size = size, .name = name};
    return buffer->data ? 0 : -ENOMEM;
}

void shared_buffer_destroy(struct shared_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct shared_buffer){};
}

void shared_buffer_breach(const struct shared_buffer *buffer, const char *what)
{
    log_error("the shared buffer \"%s\": %s\tbytes=%zu", buffer->name, what, buffer->len);
    abort();
}
