/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/mesh_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/mesh_file/mesh_file_items.h"
#include "lib/mesh_file/mesh_file_parse.h"

/* ---- items of the four lists ---- */

static int add_namespace(struct mesh_file_parse *p, const struct yaml_node *node)
{
    struct mesh_file *f = p->file;
    struct mesh_namespace n = {.name = ""}, *kept;
    int r = mesh_file_decode_namespace(&p->decode, node, &n);

    if (r < 0)
        return r;
    kept = mesh_file_grow(p, &f->namespaces, &f->namespaces_len, sizeof(n));
    if (!kept)
        return -ENOMEM;
    kept->mode = n.mode;
    kept->annotations = n.annotations;
    kept->line = node->line;
    return mesh_file_keep_word(p, n.name, &kept->name);
}

static int add_reference(struct mesh_file_parse *p, struct mesh_file_references *references,
                         const struct yaml_node *node)
{
    struct mesh_file_reference *r;

    if (references->len == references->room) {
        size_t room = references->room ? references->room * 2 : 64;

        r = reallocarray(references->list, room, sizeof(*r));
        if (!r)
            return -ENOMEM;
        references->list = r;
        references->room = room;
    }
    r = &references->list[references->len++];
    r->line = node->line;
    r->column = node->column;
    r->workload = (uint32_t)(p->file->workloads_len - 1);
    return mesh_file_keep_word(p, node->text, &r->name);
}

static int add_references(struct mesh_file_parse *p, const struct mesh_file_workload_item *item)
{
    const struct yaml_node *c = item->service_nodes ? item->service_nodes->child : NULL;
    int r = 0;

    for (; c && r == 0; c = c->next->next)
        r = add_reference(p, &p->services, c);
    for (c = item->policy_nodes ? item->policy_nodes->child : NULL; c && r == 0; c = c->next)
        r = add_reference(p, &p->policies, c);
    return r;
}

static int add_workload(struct mesh_file_parse *p, const struct yaml_node *node)
{
    struct mesh_file *f = p->file;
    struct mesh_file_workload_item item;
    struct mesh_workload *w;
    int r = mesh_file_decode_workload(&p->decode, node, p->trust_domain, &item);

    if (r < 0)
        return r;
    w = mesh_file_grow(p, &f->workloads, &f->workloads_len, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->line = node->line;
    w->protocol = item.protocol;
    w->mode = item.mode;
    w->annotations = item.annotations;
    w->has_addresses = item.message.n_addresses > 0;
    if (mesh_file_keep_text(p, item.message.uid, &w->uid) < 0 ||
        mesh_file_keep_text(p, item.message.name, &w->name) < 0 ||
        mesh_file_keep_word(p, item.message.namespace_, &w->namespace) < 0 ||
        mesh_file_keep_word(p, item.message.service_account, &w->service_account) < 0 ||
        mesh_file_keep_word(p, item.message.trust_domain, &w->trust_domain) < 0 ||
        mesh_file_keep_word(p, item.message.node, &w->node) < 0 || add_references(p, &item) < 0)
        return -ENOMEM;
    return mesh_file_keep_message(p, &item.message.base, &w->message, &w->message_len);
}

static int add_service(struct mesh_file_parse *p, const struct yaml_node *node)
{
    struct mesh_file *f = p->file;
    Istio__Workload__Service message;
    struct mesh_service *s;
    int r = mesh_file_decode_service(&p->decode, node, &message);

    if (r < 0)
        return r;
    s = mesh_file_grow(p, &f->services, &f->services_len, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->line = node->line;
    r = mesh_file_keep_pair(p, message.namespace_, message.hostname, &s->name);
    return r < 0 ? r : mesh_file_keep_message(p, &message.base, &s->message, &s->message_len);
}

static int add_policy(struct mesh_file_parse *p, const struct yaml_node *node)
{
    struct mesh_file *f = p->file;
    Istio__Security__Authorization message;
    struct mesh_policy *policy;
    int r = mesh_file_decode_policy(&p->decode, node, &message);

    if (r < 0)
        return r;
    policy = mesh_file_grow(p, &f->policies, &f->policies_len, sizeof(*policy));
    if (!policy)
        return -ENOMEM;
    policy->line = node->line;
    r = mesh_file_keep_pair(p, message.namespace_, message.name, &policy->name);
    return r < 0 ? r : mesh_file_keep_message(p, &message.base, &policy->message, &policy->message_len);
}

/* ---- the file as a whole ---- */

typedef int (*add_fn)(struct mesh_file_parse *p, const struct yaml_node *node);

static int read_list(struct mesh_file_parse *p, const char *name, add_fn add)
{
    struct yaml_source *s = &p->source;
    struct yaml_node *node = NULL;
    size_t before;
    int r = yaml_source_next(s);

    if (r < 0)
        return r;
    if (s->event.type != YAML_SEQUENCE_START_EVENT || s->event.data.sequence_start.anchor) {
        r = yaml_source_tree(s, &node);
        if (r < 0)
            return r;
        if (decode_is_null(node))
            return 0;
        (void)decode_enter_key(&p->decode, name);
        return decode_expect(&p->decode, node, YAML_LIST, "a list") < 0
                   ? -EBADMSG
                   : decode_fail(&p->decode, node, "this list can have no anchor and be no alias");
    }
    before = decode_enter_key(&p->decode, name);
    p->room = 0;
    for (size_t i = 0; (r = yaml_source_next(s)) == 0 && s->event.type != YAML_SEQUENCE_END_EVENT; i++) {
        size_t list_len = decode_enter_index(&p->decode, i);

        r = yaml_source_tree(s, &node);
        if (r == 0)
            r = add(p, node);
        if (r < 0)
            return r;
        decode_leave(&p->decode, list_len);
        yaml_source_item_done(s);
    }
    decode_leave(&p->decode, before);
    return r;
}

static int read_outbound_policy(struct mesh_file_parse *p)
{
    struct yaml_node *node = NULL;
    int r = yaml_source_next(&p->source);

    if (r == 0)
        r = yaml_source_tree(&p->source, &node);
    if (r < 0 || decode_is_null(node))
        return r;
    return mesh_file_decode_outbound_policy(&p->decode, node, &p->file->outbound_policy);
}

static int read_document(struct mesh_file_parse *p)
{
    static const struct {
        const char *name;
        add_fn add;
    } keys[] = {{"namespaces", add_namespace},
                {"workloads", add_workload},
                {"services", add_service},
                {"policies", add_policy},
                {"outboundTrafficPolicy", NULL}}; /* the only one that is no list */
    struct yaml_source *s = &p->source;
    unsigned seen = 0;
    int r;

    if (s->event.type != YAML_MAPPING_START_EVENT)
        return yaml_fail(s->error, s->origin, s->event.start_mark.line + 1, s->event.start_mark.column + 1,
                         "expected a map with the keys namespaces, workloads, services, policies, "
                         "outboundTrafficPolicy");
    while ((r = yaml_source_next(s)) == 0 && s->event.type != YAML_MAPPING_END_EVENT) {
        struct yaml_node *key = NULL;
        size_t i = 0;

        r = yaml_source_tree(s, &key);
        if (r < 0)
            return r;
        while (i < array_size(keys) && (key->kind != YAML_SCALAR || strcmp(keys[i].name, key->text) != 0))
            i++;
        if (i == array_size(keys))
            return decode_fail(&p->decode, key,
                               "unknown field \"%s\"; known here: namespaces, workloads, services, "
                               "policies, outboundTrafficPolicy",
                               key->kind == YAML_SCALAR ? decode_show(&p->decode, key->text) : "");
        if (seen & 1u << i)
            return decode_fail(&p->decode, key, "\"%s\" is given twice", keys[i].name);
        seen |= 1u << i;
        r = keys[i].add ? read_list(p, keys[i].name, keys[i].add) : read_outbound_policy(p);
        if (r < 0)
            return r;
        yaml_source_item_done(s);
    }
    return r;
}

static int read_stream(struct mesh_file_parse *p)
{
    struct yaml_source *s = &p->source;
    int r = yaml_source_next(s); /* the stream's start */

    if (r == 0)
        r = yaml_source_next(s);
    if (r < 0)
        return r;
    if (s->event.type == YAML_STREAM_END_EVENT)
        return yaml_fail(s->error, s->origin, 1, 1, "the file is empty; write {} for an empty mesh");
    r = yaml_source_next(s); /* behind the document's start */
    if (r == 0)
        r = read_document(p);
    if (r == 0)
        r = yaml_source_next(s); /* the document's end */
    if (r == 0)
        r = yaml_source_next(s);
    if (r == 0 && s->event.type != YAML_STREAM_END_EVENT)
        r = yaml_fail(s->error, s->origin, s->event.start_mark.line + 1, 1,
                      "a second document; one file is one mesh");
    return r;
}

/* By which rules. */
struct reading_rules {
    const char *trust_domain;
    bool part;
};

static int parse(const struct reading_rules *how, const char *origin, const void *text, size_t len,
                 struct mesh_file **ret, struct mesh_file_error *error)
{
    struct mesh_file_parse p = {.trust_domain = how->trust_domain, .part = how->part};
    int r;

    memset(error, 0, sizeof(*error));
    p.file = calloc(1, sizeof(*p.file));
    r = p.file ? yaml_source_open(&p.source, origin, text, len, error) : -ENOMEM;
    if (r == 0) {
        p.decode.source = &p.source;
        r = read_stream(&p);
        if (r == 0)
            r = mesh_file_index(&p);
        yaml_source_close(&p.source);
    }
    item_index_free(&p.words);
    free(p.services.list);
    free(p.policies.list);
    if (r < 0) {
        if (r != -EBADMSG)
            snprintf(error->text, sizeof(error->text), "%.400s: %s", origin, strerror(-r));
        mesh_file_free(&p.file);
        return r;
    }
    *ret = p.file;
    return 0;
}

static int load_error(struct mesh_file_error *error, const char *path, int r, const char *text)
{
    memset(error, 0, sizeof(*error));
    snprintf(error->text, sizeof(error->text), "%.400s: %s", path, text ? text : strerror(-r));
    return r;
}

static int load(const struct reading_rules *how, const char *path, struct mesh_file **ret,
                struct mesh_file_error *error)
{
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    _cleanup_free_ char *text = NULL;
    struct stat st;
    size_t len = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        return load_error(error, path, -errno, NULL);
    if (!S_ISREG(st.st_mode))
        return load_error(error, path, -EINVAL, "is not a regular file");
    if (st.st_size > MESH_FILE_MAX_BYTES)
        return load_error(error, path, -EFBIG, "is larger than 256 MiB");
    /* Not mapped: a file that gets shorter meanwhile would be a signal. */
    text = malloc((size_t)st.st_size + 1);
    if (!text)
        return load_error(error, path, -ENOMEM, NULL);
    while (len <= (size_t)st.st_size) {
        ssize_t n = read(fd, text + len, (size_t)st.st_size + 1 - len);

        if (n < 0 && errno != EINTR)
            return load_error(error, path, -errno, NULL);
        if (n == 0)
            break;
        len += n > 0 ? (size_t)n : 0;
    }
    if (len > (size_t)st.st_size)
        return load_error(error, path, -EAGAIN, "grows while it is read");
    return parse(how, path, text, len, ret, error);
}

int mesh_file_load(const char *path, const char *trust_domain, struct mesh_file **ret,
                   struct mesh_file_error *error)
{
    return load(&(struct reading_rules){trust_domain, false}, path, ret, error);
}

int mesh_file_load_part(const char *path, const char *trust_domain, struct mesh_file **ret,
                        struct mesh_file_error *error)
{
    return load(&(struct reading_rules){trust_domain, true}, path, ret, error);
}

int mesh_file_parse(const char *origin, const void *text, size_t len, const char *trust_domain,
                    struct mesh_file **ret, struct mesh_file_error *error)
{
    return parse(&(struct reading_rules){trust_domain, false}, origin, text, len, ret, error);
}

int mesh_file_parse_part(const char *origin, const void *text, size_t len, const char *trust_domain,
                         struct mesh_file **ret, struct mesh_file_error *error)
{
    return parse(&(struct reading_rules){trust_domain, true}, origin, text, len, ret, error);
}
