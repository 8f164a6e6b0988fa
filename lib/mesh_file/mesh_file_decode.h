/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding of YAML trees into protobuf messages, by tables: each field has a key, a reader and the place
 * where its value goes. A reader that does not get what it wants names the file, the line, the column, the
 * path of the field and what would have been right. Values live in the arena of the source's current item.
 * All readers and decoders of values return 0, -EBADMSG with the error filled, or -ENOMEM.
 */
#ifndef LIB_MESH_FILE_MESH_FILE_DECODE_H
#define LIB_MESH_FILE_MESH_FILE_DECODE_H

#include <protobuf-c/protobuf-c.h>

#include "lib/mesh_file/mesh_file_yaml.h"

struct decode {
    struct yaml_source *source;
    char path[512]; /* "workloads[2].workloadIps[0]"; cut if longer */
    size_t path_len;
    char shown[100]; /* of decode_show() */
};

struct decode_field;

/* Called from decode_map() and decode_list(), on their thread. Writes to into, the field's place. 0, -EBADMSG
 * with the error filled, -ENOMEM. */
typedef int (*decode_fn)(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                         void *into);

struct decode_field {
    const char *key;
    decode_fn read;
    size_t offset;
    bool required;
    const void *more; /* what the reader wants to know beside */
};

/* Names of an enum; name NULL ends the list. */
struct decode_name {
    const char *name;
    int value;
};

struct decode_message {
    const ProtobufCMessageDescriptor *descriptor;
    const struct decode_field *fields;
    size_t fields_len;
};

/* Elements of a list, as protobuf-c keeps them. */
struct decode_elements {
    size_t size;
    decode_fn read;
    const void *more; /* of that reader */
};

/* Fills the error: "FILE:LINE:COLUMN: PATH: text". Returns -EBADMSG. */
int decode_fail(struct decode *d, const struct yaml_node *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The text fit to be shown in an error: short, no control characters, never NULL. Valid until the next
 * call. */
const char *decode_show(struct decode *d, const char *text);

/* Adds ".key" or "[index]" to the path; returns the length to go back to. */
size_t decode_enter_key(struct decode *d, const char *key);
size_t decode_enter_index(struct decode *d, size_t index);
/* Back to that length of the path. */
void decode_leave(struct decode *d, size_t len);

/* Memory for the item that is read: arena_alloc(), NULL without memory. It lives as long as the item's
 * tree. */
void *decode_alloc(struct decode *d, size_t size);
/* How many children a list has; of a map, keys and values. */
size_t decode_count(const struct yaml_node *node);
/* Nothing, ~ or null, without quotes. */
bool decode_is_null(const struct yaml_node *node);
/* 0, or -EBADMSG with the error filled: the node is of another kind, or tagged. what: "a list". */
int decode_expect(struct decode *d, const struct yaml_node *node, enum yaml_kind kind, const char *what);

/* Reads a map by a table. Unknown, repeated and missing keys are errors; null is the same as no key. */
int decode_map(struct decode *d, const struct yaml_node *node, const struct decode_field *fields,
               size_t fields_len, void *object);

/* Readers. Any text that can be shown; numbers without quotes are text too. into: char ** */
int decode_text(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into);
/* Text that becomes a part of names and identities: not empty, no '/', no space, at most 253 bytes. */
int decode_word(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into);
/* "namespace/name" or "namespace/hostname" */
int decode_pair(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into);
/* into: protobuf_c_boolean * */
int decode_bool(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into);
/* 1 to 65535. into: uint32_t * */
int decode_port(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into);
/* more: struct decode_name[]. into: int *, or an enum of that size */
int decode_enum(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into);
/* more: struct decode_message. into: pointer to the message */
int decode_message(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                   void *into);
/* more: struct decode_elements. into: size_t * with the pointer to the elements behind it */
int decode_list(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into);
extern const struct decode_elements decode_texts; /* for decode_list(): a list of text */

/* For readers: a whole number from minimum to maximum, both included; what names it in the error. */
int decode_number(struct decode *d, const struct yaml_node *node, uint32_t minimum, uint32_t maximum,
                  const char *what, uint32_t *ret);
/* For readers: an address as 4 or 16 bytes. */
int decode_ip(struct decode *d, const struct yaml_node *node, const char *text, ProtobufCBinaryData *ret);
/* "10.0.0.0/8" or a single address; length counts bits of the address's own family. */
int decode_cidr(struct decode *d, const struct yaml_node *node, const char *text, ProtobufCBinaryData *ret,
                uint32_t *ret_length);

#endif
