/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/message.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int message_parse(const char *data, size_t len, cJSON **ret)
{
    _cleanup_message_ cJSON *message = NULL;
    const char *end = NULL;

    message = cJSON_ParseWithLengthOpts(data, len, &end, false);
    if (!message || !cJSON_IsObject(message))
        return -EBADMSG;
    while (end < data + len && (*end == ' ' || *end == '\n' || *end == '\r' || *end == '\t'))
        end++;
    if (end != data + len || !message_op(message))
        return -EBADMSG;
    *ret = take_pointer(message);
    return 0;
}

const char *message_op(const cJSON *message)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(message, "op"));
}

int message_text(const cJSON *message, const char *key, size_t max, const char **ret)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(message, key);

    if (!item || cJSON_IsNull(item))
        return -ENOENT;
    if (!cJSON_IsString(item) || strlen(item->valuestring) > max)
        return -EBADMSG;
    *ret = item->valuestring;
    return 0;
}

int message_name(const cJSON *message, const char *key, const char **ret)
{
    const char *text;
    int r = message_text(message, key, MESSAGE_NAME_MAX, &text);

    if (r < 0)
        return r;
    if (!*text)
        return -ENOENT;
    if (!isalnum((unsigned char)*text))
        return -EBADMSG;
    for (const char *c = text; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
            return -EBADMSG;
    }
    *ret = text;
    return 0;
}

int message_u64(const cJSON *message, const char *key, uint64_t *ret)
{
    const char *text;
    uint64_t n = 0;
    int r = message_text(message, key, 20, &text);

    if (r < 0)
        return r;
    if (!*text)
        return -EBADMSG;
    for (; *text; text++) {
        uint64_t digit = (uint64_t)(*text - '0');

        if (*text < '0' || *text > '9' || n > (UINT64_MAX - digit) / 10)
            return -EBADMSG;
        n = n * 10 + digit;
    }
    *ret = n;
    return 0;
}

int message_number(const cJSON *message, const char *key, uint64_t max, uint64_t *ret)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(message, key);

    if (!item || cJSON_IsNull(item))
        return -ENOENT;
    /* the negated comparison refuses NaN too */
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= (double)max))
        return -EBADMSG;
    if ((double)(uint64_t)item->valuedouble != item->valuedouble)
        return -EBADMSG;
    *ret = (uint64_t)item->valuedouble;
    return 0;
}

static int address_of(const cJSON *item, struct addr *ret)
{
    char buf[ADDR_TEXT_LEN];
    const char *text = cJSON_GetStringValue(item);
    size_t len;

    if (!text)
        return -EBADMSG;
    len = strcspn(text, "/");
    if (len >= sizeof(buf))
        return -EBADMSG;
    memcpy(buf, text, len);
    buf[len] = '\0';
    return addr_parse(buf, ret) < 0 ? -EBADMSG : 0;
}

int message_addresses(const cJSON *message, const char *key, struct addr *ret, int max, int *ret_len)
{
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(message, key), *item;
    int len = 0;

    if (array && !cJSON_IsNull(array) && !cJSON_IsArray(array))
        return -EBADMSG;
    cJSON_ArrayForEach (item, array) {
        struct addr a;
        int r = address_of(item, &a);

        if (r < 0)
            return r;
        (void)addr_list_add(ret, &len, max, &a);
    }
    *ret_len = len;
    return 0;
}

cJSON *message_new(const char *op)
{
    cJSON *message = cJSON_CreateObject();

    if (message && !cJSON_AddStringToObject(message, "op", op)) {
        cJSON_Delete(message);
        return NULL;
    }
    return message;
}

void message_add_u64(cJSON *message, const char *key, uint64_t value)
{
    char text[21];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    cJSON_AddStringToObject(message, key, text);
}

void message_add_addresses(cJSON *message, const char *key, const struct addr *addresses, int len)
{
    cJSON *array = cJSON_AddArrayToObject(message, key);
    char text[ADDR_TEXT_LEN];

    for (int i = 0; i < len; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(addr_format(&addresses[i], text)));
}

int message_print(FILE *out, cJSON *item)
{
    char *text = item ? cJSON_PrintUnformatted(item) : NULL;

    cJSON_Delete(item);
    if (!text)
        return -ENOMEM;
    fputs(text, out);
    cJSON_free(text);
    return 0;
}
