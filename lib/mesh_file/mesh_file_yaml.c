/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/mesh_file_yaml.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Lives, with its tree, in the arena, which is then kept. */
struct yaml_anchor {
    struct yaml_anchor *next;
    const char *name;
    const struct yaml_node *node; /* NULL until its tree is complete: an alias inside it would have no end */
};

int yaml_fail(struct mesh_file_error *error, const char *origin, size_t line, size_t column,
              const char *format, ...)
{
    va_list args;
    int n;

    error->line = (unsigned)line;
    error->column = (unsigned)column;
    n = snprintf(error->text, sizeof(error->text), "%.400s:%zu:%zu: ", origin, line, column);
    va_start(args, format);
    vsnprintf(error->text + n, sizeof(error->text) - (size_t)n, format, args);
    va_end(args);
    return -EBADMSG;
}

static int fail_here(struct yaml_source *s, const char *what)
{
    return yaml_fail(s->error, s->origin, s->event.start_mark.line + 1, s->event.start_mark.column + 1, "%s",
                     what);
}

int yaml_source_open(struct yaml_source *source, const char *origin, const void *text, size_t len,
                     struct mesh_file_error *error)
{
    memset(source, 0, sizeof(*source));
    source->origin = origin;
    source->error = error;
    if (!yaml_parser_initialize(&source->parser))
        return -ENOMEM;
    yaml_parser_set_input_string(&source->parser, text, len);
    return 0;
}

void yaml_source_close(struct yaml_source *source)
{
    if (source->has_event)
        yaml_event_delete(&source->event);
    source->has_event = false;
    yaml_parser_delete(&source->parser);
    arena_free(&source->arena);
    arena_free(&source->kept);
}

static int parser_error(struct yaml_source *s)
{
    const yaml_parser_t *p = &s->parser;
    const char *problem = p->problem ? p->problem : "unreadable";

    if (p->error == YAML_MEMORY_ERROR)
        return -ENOMEM;
    if (p->error == YAML_READER_ERROR)
        return yaml_fail(s->error, s->origin, p->mark.line + 1, p->mark.column + 1,
                         "not YAML: %s (byte %zu of the file)", problem, p->problem_offset);
    if (p->context)
        return yaml_fail(s->error, s->origin, p->problem_mark.line + 1, p->problem_mark.column + 1,
                         "not YAML: %s, %s that began at line %zu", problem, p->context,
                         p->context_mark.line + 1);
    return yaml_fail(s->error, s->origin, p->problem_mark.line + 1, p->problem_mark.column + 1,
                     "not YAML: %s", problem);
}

int yaml_source_next(struct yaml_source *source)
{
    if (source->has_event)
        yaml_event_delete(&source->event);
    source->has_event = false;
    if (!yaml_parser_parse(&source->parser, &source->event))
        return parser_error(source);
    source->has_event = true;
    return 0;
}

static const struct yaml_anchor *find_anchor(const struct yaml_source *s, const char *name)
{
    for (const struct yaml_anchor *a = s->first_anchor; a; a = a->next) {
        if (!strcmp(a->name, name))
            return a;
    }
    return NULL;
}

static int add_anchor(struct yaml_source *s, const yaml_char_t *name, struct yaml_anchor **ret)
{
    struct yaml_anchor *a;

    if (++s->anchors > YAML_MAX_ANCHORS)
        return fail_here(s, "more than 1000 anchors");
    a = arena_alloc(&s->arena, sizeof(*a));
    if (!a || !(a->name = arena_copy(&s->arena, (const char *)name, strlen((const char *)name))))
        return -ENOMEM;
    /* The newest first: an anchor may be defined again. */
    a->next = s->first_anchor;
    s->first_anchor = a;
    s->item_anchors++;
    *ret = a;
    return 0;
}

static int copy_tag(struct yaml_source *s, const yaml_char_t *tag, struct yaml_node *node)
{
    static const char standard[] = "tag:yaml.org,2002:";

    if (!tag || !strcmp((const char *)tag, "!") ||
        !strncmp((const char *)tag, standard, sizeof(standard) - 1))
        return 0;
    node->tag = arena_copy(&s->arena, (const char *)tag, strlen((const char *)tag));
    return node->tag ? 0 : -ENOMEM;
}

static int tree(struct yaml_source *s, unsigned depth, struct yaml_node **ret);

static int children(struct yaml_source *s, unsigned depth, yaml_event_type_t end, struct yaml_node *node)
{
    struct yaml_node **tail = &node->child;
    int r;

    for (;;) {
        r = yaml_source_next(s);
        if (r < 0)
            return r;
        if (s->event.type == end)
            return 0;
        r = tree(s, depth + 1, tail);
        if (r < 0)
            return r;
        node->values += (*tail)->values;
        if (node->values > YAML_MAX_VALUES)
            return yaml_fail(s->error, s->origin, node->line, node->column,
                             "holds more than %u values once its aliases are expanded", YAML_MAX_VALUES);
        if ((*tail)->height >= node->height)
            node->height = (uint8_t)((*tail)->height + 1);
        tail = &(*tail)->next;
    }
}

/* An alias is a copy of the head of the tree it names; what is below is shared. */
static int alias(struct yaml_source *s, unsigned depth, struct yaml_node *node)
{
    const char *name = (const char *)s->event.data.alias.anchor;
    const struct yaml_anchor *a = find_anchor(s, name);

    if (!a)
        return yaml_fail(s->error, s->origin, node->line, node->column, "alias *%.60s names no anchor", name);
    if (!a->node)
        return fail_here(s, "an alias inside its own anchor has no end");
    if (depth + a->node->height > YAML_MAX_DEPTH)
        return fail_here(s, "nested more than 32 deep once aliases are expanded");
    *node = *a->node;
    node->next = NULL;
    return 0;
}

static int tree(struct yaml_source *s, unsigned depth, struct yaml_node **ret)
{
    struct yaml_node *node = arena_alloc(&s->arena, sizeof(*node));
    const yaml_char_t *anchor_name = NULL;
    struct yaml_anchor *anchor = NULL;
    int r = 0;

    if (!node)
        return -ENOMEM;
    if (depth > YAML_MAX_DEPTH)
        return fail_here(s, "nested more than 32 deep");
    node->line = (uint32_t)s->event.start_mark.line + 1;
    node->column = (uint32_t)s->event.start_mark.column + 1;
    node->values = 1;
    switch (s->event.type) {
    case YAML_ALIAS_EVENT:
        r = alias(s, depth, node);
        *ret = node;
        return r;
    case YAML_SCALAR_EVENT:
        anchor_name = s->event.data.scalar.anchor;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor_name = s->event.data.sequence_start.anchor;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor_name = s->event.data.mapping_start.anchor;
        break;
    default:
        return fail_here(s, "a value is missing");
    }
    if (anchor_name)
        r = add_anchor(s, anchor_name, &anchor);
    if (r < 0)
        return r;

    if (s->event.type == YAML_SCALAR_EVENT) {
        size_t len = s->event.data.scalar.length;

        node->kind = YAML_SCALAR;
        node->plain = s->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        if (len > YAML_MAX_SCALAR)
            return fail_here(s, "a value of more than 8192 bytes");
        if (memchr(s->event.data.scalar.value, '\0', len))
            return fail_here(s, "a value with a NUL in it");
        node->text = arena_copy(&s->arena, (const char *)s->event.data.scalar.value, len);
        r = node->text ? copy_tag(s, s->event.data.scalar.tag, node) : -ENOMEM;
    } else if (s->event.type == YAML_SEQUENCE_START_EVENT) {
        node->kind = YAML_LIST;
        r = copy_tag(s, s->event.data.sequence_start.tag, node);
        if (r == 0)
            r = children(s, depth, YAML_SEQUENCE_END_EVENT, node);
    } else {
        node->kind = YAML_MAP;
        r = copy_tag(s, s->event.data.mapping_start.tag, node);
        if (r == 0)
            r = children(s, depth, YAML_MAPPING_END_EVENT, node);
    }
    if (r < 0)
        return r;
    if (anchor)
        anchor->node = node;
    *ret = node;
    return 0;
}

int yaml_source_tree(struct yaml_source *source, struct yaml_node **ret)
{
    return tree(source, 1, ret);
}

void yaml_source_item_done(struct yaml_source *source)
{
    if (source->item_anchors)
        arena_take(&source->kept, &source->arena);
    else
        arena_reset(&source->arena);
    source->item_anchors = 0;
}
