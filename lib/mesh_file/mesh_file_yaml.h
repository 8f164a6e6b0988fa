/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML as small trees, one item of a list at a time, so that a file of 100,000 workloads is never in memory
 * as a whole. Anchors and aliases work; what they expand to is counted before anyone walks it.
 */
#ifndef LIB_MESH_FILE_MESH_FILE_YAML_H
#define LIB_MESH_FILE_MESH_FILE_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yaml.h>

#include "lib/mesh_file/arena.h"
#include "lib/mesh_file/mesh_file.h"

#define YAML_MAX_DEPTH   32       /* nested lists and maps, aliases expanded */
#define YAML_MAX_VALUES  1000000u /* in one item, aliases expanded */
#define YAML_MAX_ANCHORS 1000u    /* names, in one file */
#define YAML_MAX_SCALAR  8192u    /* bytes */

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };

/* The children of a map are key, value, key, value. Lines and columns count from 1. */
struct yaml_node {
    enum yaml_kind kind;
    bool plain; /* a scalar without quotes */
    uint8_t height;
    uint32_t line, column;
    uint32_t values; /* with all below, aliases expanded */
    const char *tag; /* "!Exact"; NULL if there is none or a standard one */
    const char *text;
    struct yaml_node *child, *next;
};

struct yaml_anchor;

struct yaml_source {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    bool has_event;
    const char *origin;
    struct arena arena; /* of the current item */
    struct arena kept;  /* of items with anchors, which later ones may name */
    size_t anchors;     /* defined so far */
    size_t item_anchors;
    struct yaml_anchor *first_anchor;
    struct mesh_file_error *error;
};

/* Reads text of len bytes, which must outlive the source, as must origin, which names it in errors. 0
 * or -ENOMEM. */
int yaml_source_open(struct yaml_source *source, const char *origin, const void *text, size_t len,
                     struct mesh_file_error *error);
/* Frees all trees. Only after an open that succeeded. */
void yaml_source_close(struct yaml_source *source);

/* Steps to the next event. 0, -EBADMSG with error filled, -ENOMEM. */
int yaml_source_next(struct yaml_source *source);
/* Builds the tree that begins with the current event. It lives until yaml_source_item_done(). 0,
 * -EBADMSG with error filled, or -ENOMEM. */
int yaml_source_tree(struct yaml_source *source, struct yaml_node **ret);
void yaml_source_item_done(struct yaml_source *source);

/* Writes "ORIGIN:LINE:COLUMN: text" and returns -EBADMSG. */
int yaml_fail(struct mesh_file_error *error, const char *origin, size_t line, size_t column,
              const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
