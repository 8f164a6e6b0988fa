/* SPDX-License-Identifier: Apache-2.0 */
/* A mesh file that is being read. Shared by mesh_file.c, which reads it, mesh_file_keep.c and
 * mesh_file_index.c; on the thread that reads. */
#ifndef LIB_MESH_FILE_MESH_FILE_PARSE_H
#define LIB_MESH_FILE_MESH_FILE_PARSE_H

#include "lib/mesh_file/mesh_file_decode.h"

/* A name that an item gives for another one; whether it exists is known at the end of the file. */
struct mesh_file_reference {
    const char *name;
    uint32_t line, column, workload;
};

struct mesh_file_references {
    struct mesh_file_reference *list;
    size_t len, room; /* elements that there are, and that fit */
};

struct mesh_file_parse {
    struct mesh_file *file;
    struct decode decode;
    struct yaml_source source;
    const char *trust_domain;
    bool part;               /* of a mesh: what is named may be elsewhere */
    struct item_index words; /* strings in the file's arena that many items share */
    size_t room;             /* elements of the list that is being read */
    struct mesh_file_references services, policies;
};

/* ---- mesh_file_keep.c: what outlives its item. ---- */

/* Of a text that many items share: namespaces, accounts and nodes are few, workloads many. 0 or -ENOMEM; *ret
 * is the file's. */
int mesh_file_keep_word(struct mesh_file_parse *p, const char *text, const char **ret);
/* A copy of a text. 0 or -ENOMEM; *ret is the file's. */
int mesh_file_keep_text(struct mesh_file_parse *p, const char *text, const char **ret);
/* "namespace/name". 0 or -ENOMEM; *ret is the file's. */
int mesh_file_keep_pair(struct mesh_file_parse *p, const char *namespace, const char *name, const char **ret);
/* The message as it is sent, *ret_len bytes. 0 or -ENOMEM; *ret is the file's. */
int mesh_file_keep_message(struct mesh_file_parse *p, const ProtobufCMessage *message, const uint8_t **ret,
                           uint32_t *ret_len);
/* Room for one more element of size bytes in the list that is being read, zeroed; it is the list's until the
 * next one. list_pointer: the address of the pointer to its first element. NULL: no memory. */
void *mesh_file_grow(struct mesh_file_parse *p, void *list_pointer, size_t *len, size_t size);

/* ---- mesh_file_index.c ---- */

/* Once all is read: finds what is there twice and what is named and is not there. 0, -EBADMSG with the place
 * in the source's error, or -ENOMEM. */
int mesh_file_index(struct mesh_file_parse *p);

#endif
