/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/mesh_file_decode.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/addr.h"
#include "lib/cleanup.h"

#define WORD_MAX 253 /* bytes; the length of a DNS name */

int decode_fail(struct decode *d, const struct yaml_node *node, const char *format, ...)
{
    char text[768];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return yaml_fail(d->source->error, d->source->origin, node->line, node->column, "%.*s%s%s",
                     (int)d->path_len, d->path, d->path_len ? ": " : "", text);
}

const char *decode_show(struct decode *d, const char *text)
{
    size_t i;

    for (i = 0; text[i] && i < sizeof(d->shown) - 4; i++)
        d->shown[i] = (unsigned char)text[i] < ' ' || text[i] == 0x7f ? '?' : text[i];
    snprintf(d->shown + i, sizeof(d->shown) - i, "%s", text[i] ? "..." : "");
    return d->shown;
}

static size_t enter(struct decode *d, int printed)
{
    size_t before = d->path_len, room = sizeof(d->path) - 1 - before;

    if (printed > 0)
        d->path_len += (size_t)printed < room ? (size_t)printed : room;
    return before;
}

size_t decode_enter_key(struct decode *d, const char *key)
{
    return enter(d, snprintf(d->path + d->path_len, sizeof(d->path) - d->path_len, "%s%s",
                             d->path_len ? "." : "", decode_show(d, key)));
}

size_t decode_enter_index(struct decode *d, size_t index)
{
    return enter(d, snprintf(d->path + d->path_len, sizeof(d->path) - d->path_len, "[%zu]", index));
}

void decode_leave(struct decode *d, size_t len)
{
    d->path_len = len;
    d->path[len] = '\0';
}

void *decode_alloc(struct decode *d, size_t size)
{
    return arena_alloc(&d->source->arena, size);
}

size_t decode_count(const struct yaml_node *node)
{
    size_t n = 0;

    for (const struct yaml_node *c = node->child; c; c = c->next)
        n++;
    return n;
}

bool decode_is_null(const struct yaml_node *node)
{
    return node->kind == YAML_SCALAR && node->plain && !node->tag &&
           (!*node->text || !strcmp(node->text, "~") || !strcmp(node->text, "null"));
}

int decode_expect(struct decode *d, const struct yaml_node *node, enum yaml_kind kind, const char *what)
{
    static const char *const kinds[] = {"text", "a list", "a map"};

    if (node->kind != kind)
        return decode_fail(d, node, "expected %s, found %s", what, kinds[node->kind]);
    if (node->tag)
        return decode_fail(d, node, "tag %s has no meaning here", decode_show(d, node->tag));
    return 0;
}

static int unknown_key(struct decode *d, const struct yaml_node *key, const struct decode_field *fields,
                       size_t fields_len)
{
    char known[600];
    size_t n = 0;

    known[0] = '\0';
    for (size_t i = 0; i < fields_len && n < sizeof(known); i++)
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", fields[i].key);
    return decode_fail(d, key, "unknown field \"%s\"; known here: %s", decode_show(d, key->text), known);
}

int decode_map(struct decode *d, const struct yaml_node *node, const struct decode_field *fields,
               size_t fields_len, void *object)
{
    uint64_t seen = 0, given = 0;
    int r = decode_expect(d, node, YAML_MAP, "a map");

    if (r < 0)
        return r;
    for (const struct yaml_node *key = node->child; key; key = key->next->next) {
        const struct yaml_node *value = key->next;
        size_t i = 0, before;

        if (key->kind != YAML_SCALAR)
            return decode_fail(d, key, "a key must be text");
        while (i < fields_len && strcmp(fields[i].key, key->text) != 0)
            i++;
        if (i == fields_len)
            return unknown_key(d, key, fields, fields_len);
        if (seen & 1ull << i)
            return decode_fail(d, key, "\"%s\" is given twice", key->text);
        seen |= 1ull << i;
        if (decode_is_null(value))
            continue;
        given |= 1ull << i;
        before = decode_enter_key(d, key->text);
        r = fields[i].read(d, value, &fields[i], (char *)object + fields[i].offset);
        if (r < 0)
            return r;
        decode_leave(d, before);
    }
    for (size_t i = 0; i < fields_len; i++) {
        if (fields[i].required && !(given & 1ull << i))
            return decode_fail(d, node, "\"%s\" is missing", fields[i].key);
    }
    return 0;
}

int decode_text(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into)
{
    int r = decode_expect(d, node, YAML_SCALAR, "text");

    if (r < 0)
        return r;
    for (const char *p = node->text; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return decode_fail(d, node, "\"%s\" holds a control character", decode_show(d, node->text));
    }
    *(const char **)into = node->text;
    return 0;
}

/* Why len bytes at text are not a word, or NULL. */
static const char *word_fault(const char *text, size_t len)
{
    if (!len)
        return "must not be empty";
    if (len > WORD_MAX)
        return "is longer than 253 bytes";
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '/' || text[i] == ' ')
            return "must hold no '/' and no space";
    }
    return NULL;
}

int decode_word(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into)
{
    const char *text = "", *fault;
    int r = decode_text(d, node, field, &text);

    if (r < 0)
        return r;
    fault = word_fault(text, strlen(text));
    if (fault)
        return decode_fail(d, node, "\"%s\" %s", decode_show(d, text), fault);
    *(const char **)into = text;
    return 0;
}

int decode_pair(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into)
{
    const char *text = "", *slash;
    int r = decode_text(d, node, field, &text);

    if (r < 0)
        return r;
    slash = strchr(text, '/');
    if (!slash || word_fault(text, (size_t)(slash - text)) || word_fault(slash + 1, strlen(slash + 1)))
        return decode_fail(d, node, "\"%s\" is not NAMESPACE/%s", decode_show(d, text),
                           field && field->more ? (const char *)field->more : "NAME");
    *(const char **)into = text;
    return 0;
}

int decode_bool(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into)
{
    int r = decode_expect(d, node, YAML_SCALAR, "true or false");

    if (r < 0)
        return r;
    if (strcmp(node->text, "true") != 0 && strcmp(node->text, "false") != 0)
        return decode_fail(d, node, "\"%s\" is neither true nor false", decode_show(d, node->text));
    *(protobuf_c_boolean *)into = *node->text == 't';
    return 0;
}

int decode_number(struct decode *d, const struct yaml_node *node, uint32_t minimum, uint32_t maximum,
                  const char *what, uint32_t *ret)
{
    uint64_t n = 0;
    int r = decode_expect(d, node, YAML_SCALAR, what);
    const char *p;

    if (r < 0)
        return r;
    for (p = node->text; *p >= '0' && *p <= '9' && n <= maximum; p++)
        n = n * 10 + (uint64_t)(*p - '0');
    if (*p || p == node->text || n < minimum || n > maximum)
        return decode_fail(d, node, "\"%s\" is not %s (%u to %u)", decode_show(d, node->text), what, minimum,
                           maximum);
    *ret = (uint32_t)n;
    return 0;
}

int decode_port(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into)
{
    return decode_number(d, node, 1, 65535, "a port", into);
}

int decode_enum(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into)
{
    const struct decode_name *names = field->more;
    char known[200];
    size_t n = 0;
    int r = decode_expect(d, node, YAML_SCALAR, "text");

    if (r < 0)
        return r;
    known[0] = '\0';
    for (const struct decode_name *name = names; name->name; name++) {
        if (!strcmp(name->name, node->text)) {
            *(int *)into = name->value;
            return 0;
        }
        if (n < sizeof(known))
            n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", name->name);
    }
    return decode_fail(d, node, "\"%s\" is not one of %s", decode_show(d, node->text), known);
}

int decode_message(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                   void *into)
{
    const struct decode_message *m = field->more;
    ProtobufCMessage *message = decode_alloc(d, m->descriptor->sizeof_message);
    int r;

    if (!message)
        return -ENOMEM;
    protobuf_c_message_init(m->descriptor, message);
    r = decode_map(d, node, m->fields, m->fields_len, message);
    if (r < 0)
        return r;
    *(ProtobufCMessage **)into = message;
    return 0;
}

int decode_list(struct decode *d, const struct yaml_node *node, const struct decode_field *field, void *into)
{
    const struct decode_elements *e = field->more;
    const struct decode_field element = {.read = e->read, .more = e->more};
    size_t count, i = 0, before;
    char *array;
    int r = decode_expect(d, node, YAML_LIST, "a list");

    if (r < 0)
        return r;
    count = decode_count(node);
    array = decode_alloc(d, count * e->size);
    if (!array)
        return -ENOMEM;
    for (const struct yaml_node *c = node->child; c; c = c->next, i++) {
        before = decode_enter_index(d, i);
        r = e->read(d, c, &element, array + i * e->size);
        if (r < 0)
            return r;
        decode_leave(d, before);
    }
    memcpy(into, &count, sizeof(count));
    memcpy((char *)into + sizeof(count), &array, sizeof(array));
    return 0;
}

const struct decode_elements decode_texts = {sizeof(char *), decode_text, NULL};

static int copy_addr(struct decode *d, const struct addr *addr, ProtobufCBinaryData *ret)
{
    uint8_t *bytes = decode_alloc(d, 16);

    if (!bytes)
        return -ENOMEM;
    ret->len = addr_to_bytes(addr, bytes);
    ret->data = bytes;
    return 0;
}

int decode_ip(struct decode *d, const struct yaml_node *node, const char *text, ProtobufCBinaryData *ret)
{
    struct addr addr;

    if (addr_parse(text, &addr) < 0)
        return decode_fail(d, node, "\"%s\" is not an IP address", decode_show(d, text));
    if (addr_is_none(&addr) || (addr_is_v4(&addr) && !memcmp(addr.bytes + 12, "\0\0\0", 4)))
        return decode_fail(d, node, "\"%s\" is not a usable address", decode_show(d, text));
    return copy_addr(d, &addr, ret);
}

int decode_cidr(struct decode *d, const struct yaml_node *node, const char *text, ProtobufCBinaryData *ret,
                uint32_t *ret_length)
{
    struct cidr cidr;

    if (cidr_parse(text, &cidr) < 0)
        return decode_fail(d, node, "\"%s\" is neither an IP address nor a range such as 10.0.0.0/8",
                           decode_show(d, text));
    *ret_length = addr_is_v4(&cidr.addr) ? cidr.length - 96u : cidr.length;
    return copy_addr(d, &cidr.addr, ret);
}
