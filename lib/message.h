/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the JSON objects of bruma/protocol.h. Nothing here trusts its input; results point into the
 * message. */
#ifndef LIB_MESSAGE_H
#define LIB_MESSAGE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/addr.h"
#include "lib/cleanup.h"

/* Bytes of a pod's, namespace's or container's name: the limit of Kubernetes. */
#define MESSAGE_NAME_MAX 253

static inline void message_free(cJSON **message)
{
    cJSON_Delete(*message);
}
#define _cleanup_message_ cleanup(message_free)

/* The whole of data must be one JSON object with a string "op". -EBADMSG if not. The caller frees *ret. */
int message_parse(const char *data, size_t len, cJSON **ret);
/* The value of "op": lives as long as message. Never NULL for one that message_parse() has taken. */
const char *message_op(const cJSON *message);

/* Text of at most max bytes, which lives as long as message. -ENOENT: no such key, or null. -EBADMSG:
 * something else than a string, or too long. */
int message_text(const cJSON *message, const char *key, size_t max, const char **ret);
/* Text fit for names of pods, namespaces, containers and files: at most MESSAGE_NAME_MAX letters,
 * digits and ".", "_", "-", the first one a letter or digit; it lives as long as message. -ENOENT: no
 * such key, null, or empty. -EBADMSG: anything else. */
int message_name(const cJSON *message, const char *key, const char **ret);
/* A number of 64 bits in a decimal string. -ENOENT or -EBADMSG, as message_text(). */
int message_u64(const cJSON *message, const char *key, uint64_t *ret);
/* A JSON number without fraction, from 0 to max. -ENOENT or -EBADMSG, as message_text(). */
int message_number(const cJSON *message, const char *key, uint64_t max, uint64_t *ret);
/* An array of "10.0.0.1" or "10.0.0.1/24" (the length is dropped). Duplicates are left out, and so are
 * those that there is no room for: max addresses (see addr_list_add()). A missing key is an empty
 * array. 0, or -EBADMSG: then what ret holds means nothing. */
int message_addresses(const cJSON *message, const char *key, struct addr *ret, int max, int *ret_len);

/* A new object, which the caller frees (message_free()); NULL without memory. All add functions are
 * harmless with a NULL object, and leave the key out or empty if memory is short. */
cJSON *message_new(const char *op);
void message_add_u64(cJSON *message, const char *key, uint64_t value);
void message_add_addresses(cJSON *message, const char *key, const struct addr *addresses, int len);

/* Any JSON on one line; takes the item. 0, or -ENOMEM, also if the item is NULL; other errors stay in the
 * stream. */
int message_print(FILE *out, cJSON *item);

#endif
