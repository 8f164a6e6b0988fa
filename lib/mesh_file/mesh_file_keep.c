/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/mesh_file/mesh_file_parse.h"

static bool word_is(const void *item, const void *key)
{
    return !strcmp(item, key);
}

int mesh_file_keep_word(struct mesh_file_parse *p, const char *text, const char **ret)
{
    uint64_t hash = item_index_hash_text(0, text);
    char *known = item_index_find(&p->words, hash, word_is, text);

    if (!known) {
        known = arena_copy(&p->file->arena, text, strlen(text));
        if (!known || item_index_add(&p->words, hash, known) < 0)
            return -ENOMEM;
    }
    *ret = known;
    return 0;
}

int mesh_file_keep_text(struct mesh_file_parse *p, const char *text, const char **ret)
{
    *ret = arena_copy(&p->file->arena, text, strlen(text));
    return *ret ? 0 : -ENOMEM;
}

int mesh_file_keep_pair(struct mesh_file_parse *p, const char *namespace, const char *name, const char **ret)
{
    size_t size = strlen(namespace) + strlen(name) + 2;
    char *text = arena_alloc(&p->file->arena, size);

    if (!text)
        return -ENOMEM;
    snprintf(text, size, "%s/%s", namespace, name);
    *ret = text;
    return 0;
}

int mesh_file_keep_message(struct mesh_file_parse *p, const ProtobufCMessage *message, const uint8_t **ret,
                           uint32_t *ret_len)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = arena_alloc(&p->file->arena, len);

    if (!bytes)
        return -ENOMEM;
    protobuf_c_message_pack(message, bytes);
    *ret = bytes;
    *ret_len = (uint32_t)len;
    return 0;
}

void *mesh_file_grow(struct mesh_file_parse *p, void *list_pointer, size_t *len, size_t size)
{
    void *list;

    memcpy(&list, list_pointer, sizeof(list));
    if (!list || *len == p->room) {
        size_t room = list ? p->room * 2 : 64;
        void *more = reallocarray(list, room, size);

        if (!more)
            return NULL;
        p->room = room;
        list = more;
        memcpy(list_pointer, &list, sizeof(list));
    }
    return memset((char *)list + (*len)++ * size, 0, size);
}
