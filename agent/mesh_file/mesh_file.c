/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/mesh_file/mesh_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/mesh_file/mesh_file_items.h"
#include "lib/cleanup.h"

/* A name that an item gives for another one; whether it exists is known at the end of the file. */
struct reference {
    const char *name;
    uint32_t line, column, workload;
};

struct references {
    struct reference *list;
    size_t len, room;
};

struct file_parse {
    struct mesh_file *file;
    struct decode decode;
    struct yaml_source source;
    const char *trust_domain;
    struct index words; /* strings in the file's arena that many items share */
    size_t room;        /* elements of the list that is being read */
    struct references services, policies;
};

/* ---- strings and messages that outlive their item ---- */

static bool word_is(const void *item, const void *key)
{
    return !strcmp(item, key);
}

/* Namespaces, accounts and nodes are few, workloads many. */
static int keep_word(struct file_parse *p, const char *text, const char **ret)
{
    uint64_t hash = index_hash_text(0, text);
    char *known = index_find(&p->words, hash, word_is, text);

    if (!known) {
        known = arena_copy(&p->file->arena, text, strlen(text));
        if (!known || index_add(&p->words, hash, known) < 0)
            return -ENOMEM;
    }
    *ret = known;
    return 0;
}

static int keep_text(struct file_parse *p, const char *text, const char **ret)
{
    *ret = arena_copy(&p->file->arena, text, strlen(text));
    return *ret ? 0 : -ENOMEM;
}

static int keep_pair(struct file_parse *p, const char *namespace, const char *name, const char **ret)
{
    size_t size = strlen(namespace) + strlen(name) + 2;
    char *text = arena_alloc(&p->file->arena, size);

    if (!text)
        return -ENOMEM;
    snprintf(text, size, "%s/%s", namespace, name);
    *ret = text;
    return 0;
}

static int keep_message(struct file_parse *p, const ProtobufCMessage *message, const uint8_t **ret,
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

/* Room for one more element, zeroed. */
static void *grow(struct file_parse *p, void *list_pointer, size_t *len, size_t size)
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

/* ---- items of the four lists ---- */

static int add_namespace(struct file_parse *p, const struct yaml_node *node)
{
    struct mesh_file *f = p->file;
    struct mesh_namespace n = {.name = ""}, *kept;
    int r = mesh_file_decode_namespace(&p->decode, node, &n);

    if (r < 0)
        return r;
    kept = grow(p, &f->namespaces, &f->namespaces_len, sizeof(n));
    if (!kept)
        return -ENOMEM;
    kept->mode = n.mode;
    kept->line = node->line;
    return keep_word(p, n.name, &kept->name);
}

static int add_reference(struct file_parse *p, struct references *references, const struct yaml_node *node)
{
    struct reference *r;

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
    return keep_word(p, node->text, &r->name);
}

static int add_references(struct file_parse *p, const struct mesh_file_workload_item *item)
{
    const struct yaml_node *c = item->service_nodes ? item->service_nodes->child : NULL;
    int r = 0;

    for (; c && r == 0; c = c->next->next)
        r = add_reference(p, &p->services, c);
    for (c = item->policy_nodes ? item->policy_nodes->child : NULL; c && r == 0; c = c->next)
        r = add_reference(p, &p->policies, c);
    return r;
}

static int add_workload(struct file_parse *p, const struct yaml_node *node)
{
    struct mesh_file *f = p->file;
    struct mesh_file_workload_item item;
    struct mesh_workload *w;
    int r = mesh_file_decode_workload(&p->decode, node, p->trust_domain, &item);

    if (r < 0)
        return r;
    w = grow(p, &f->workloads, &f->workloads_len, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->line = node->line;
    w->protocol = item.protocol;
    w->mode = item.mode;
    w->has_addresses = item.message.n_addresses > 0;
    if (keep_text(p, item.message.uid, &w->uid) < 0 || keep_text(p, item.message.name, &w->name) < 0 ||
        keep_word(p, item.message.namespace_, &w->namespace) < 0 ||
        keep_word(p, item.message.service_account, &w->service_account) < 0 ||
        keep_word(p, item.message.trust_domain, &w->trust_domain) < 0 ||
        keep_word(p, item.message.node, &w->node) < 0 || add_references(p, &item) < 0)
        return -ENOMEM;
    return keep_message(p, &item.message.base, &w->message, &w->message_len);
}

static int add_service(struct file_parse *p, const struct yaml_node *node)
{
    struct mesh_file *f = p->file;
    Istio__Workload__Service message;
    struct mesh_service *s;
    int r = mesh_file_decode_service(&p->decode, node, &message);

    if (r < 0)
        return r;
    s = grow(p, &f->services, &f->services_len, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->line = node->line;
    r = keep_pair(p, message.namespace_, message.hostname, &s->name);
    return r < 0 ? r : keep_message(p, &message.base, &s->message, &s->message_len);
}

static int add_policy(struct file_parse *p, const struct yaml_node *node)
{
    struct mesh_file *f = p->file;
    Istio__Security__Authorization message;
    struct mesh_policy *policy;
    int r = mesh_file_decode_policy(&p->decode, node, &message);

    if (r < 0)
        return r;
    policy = grow(p, &f->policies, &f->policies_len, sizeof(*policy));
    if (!policy)
        return -ENOMEM;
    policy->line = node->line;
    r = keep_pair(p, message.namespace_, message.name, &policy->name);
    return r < 0 ? r : keep_message(p, &message.base, &policy->message, &policy->message_len);
}

/* ---- the file as a whole ---- */

static bool namespace_is(const void *item, const void *key)
{
    return !strcmp(((const struct mesh_namespace *)item)->name, key);
}

static bool uid_is(const void *item, const void *key)
{
    return !strcmp(((const struct mesh_workload *)item)->uid, key);
}

static bool service_is(const void *item, const void *key)
{
    return !strcmp(((const struct mesh_service *)item)->name, key);
}

static bool policy_is(const void *item, const void *key)
{
    return !strcmp(((const struct mesh_policy *)item)->name, key);
}

static bool workload_is(const void *item, const void *key)
{
    const struct mesh_workload *w = item;
    const char *const *names = key;

    return !strcmp(w->name, names[1]) && !strcmp(w->namespace, names[0]);
}

static uint64_t workload_hash(const char *namespace, const char *name)
{
    return index_hash_text(index_hash_text(0, namespace), name);
}

static int twice(struct file_parse *p, const char *list, size_t i, const char *what, uint32_t line,
                 uint32_t other)
{
    return yaml_fail(p->source.error, p->source.origin, line, 1, "%s[%zu]: %.300s is already at line %u",
                     list, i, what, other);
}

/* Adds item under key, unless one is there. */
static int add_unique(struct index *index, index_match_fn match, const char *key, void *item,
                      void **ret_other)
{
    uint64_t hash = index_hash_text(0, key);

    *ret_other = index_find(index, hash, match, key);
    return *ret_other ? -EEXIST : index_add(index, hash, item);
}

static int index_namespaces_and_workloads(struct file_parse *p)
{
    struct mesh_file *f = p->file;
    void *other;
    int r = 0;

    for (size_t i = 0; i < f->namespaces_len; i++) {
        r = add_unique(&f->namespaces_by_name, namespace_is, f->namespaces[i].name, &f->namespaces[i],
                       &other);
        if (r == -EEXIST)
            return twice(p, "namespaces", i, f->namespaces[i].name, f->namespaces[i].line,
                         ((struct mesh_namespace *)other)->line);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < f->workloads_len; i++) {
        struct mesh_workload *w = &f->workloads[i];

        r = add_unique(&f->workloads_by_uid, uid_is, w->uid, w, &other);
        if (r == -EEXIST)
            return twice(p, "workloads", i, w->uid, w->line, ((struct mesh_workload *)other)->line);
        if (r == 0)
            r = index_add(&f->workloads_by_name, workload_hash(w->namespace, w->name), w);
        if (r < 0)
            return r;
    }
    return 0;
}

static int index_services_and_policies(struct file_parse *p)
{
    struct mesh_file *f = p->file;
    void *other;
    int r;

    for (size_t i = 0; i < f->services_len; i++) {
        struct mesh_service *s = &f->services[i];

        r = add_unique(&f->services_by_name, service_is, s->name, s, &other);
        if (r == -EEXIST)
            return twice(p, "services", i, s->name, s->line, ((struct mesh_service *)other)->line);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < f->policies_len; i++) {
        struct mesh_policy *policy = &f->policies[i];

        r = add_unique(&f->policies_by_name, policy_is, policy->name, policy, &other);
        if (r == -EEXIST)
            return twice(p, "policies", i, policy->name, policy->line, ((struct mesh_policy *)other)->line);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A policy that is named but does not exist would protect nothing, a service would have no endpoint. */
static int check_references(struct file_parse *p, const struct references *references,
                            const struct index *index, index_match_fn match, const char *field,
                            const char *what)
{
    for (size_t i = 0; i < references->len; i++) {
        const struct reference *r = &references->list[i];

        if (!index_find(index, index_hash_text(0, r->name), match, r->name))
            return yaml_fail(p->source.error, p->source.origin, r->line, r->column,
                             "workloads[%u].%s: \"%.300s\" is not a %s of this file", r->workload, field,
                             r->name, what);
    }
    return 0;
}

typedef int (*add_fn)(struct file_parse *p, const struct yaml_node *node);

static int read_list(struct file_parse *p, const char *name, add_fn add)
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

static int read_document(struct file_parse *p)
{
    static const struct {
        const char *name;
        add_fn add;
    } lists[] = {{"namespaces", add_namespace},
                 {"workloads", add_workload},
                 {"services", add_service},
                 {"policies", add_policy}};
    struct yaml_source *s = &p->source;
    unsigned seen = 0;
    int r;

    if (s->event.type != YAML_MAPPING_START_EVENT)
        return yaml_fail(s->error, s->origin, s->event.start_mark.line + 1, s->event.start_mark.column + 1,
                         "expected a map with the keys namespaces, workloads, services, policies");
    while ((r = yaml_source_next(s)) == 0 && s->event.type != YAML_MAPPING_END_EVENT) {
        struct yaml_node *key = NULL;
        size_t i = 0;

        r = yaml_source_tree(s, &key);
        if (r < 0)
            return r;
        while (i < array_size(lists) && (key->kind != YAML_SCALAR || strcmp(lists[i].name, key->text) != 0))
            i++;
        if (i == array_size(lists))
            return decode_fail(&p->decode, key,
                               "unknown field \"%s\"; known here: namespaces, workloads, services, "
                               "policies",
                               key->kind == YAML_SCALAR ? decode_show(&p->decode, key->text) : "");
        if (seen & 1u << i)
            return decode_fail(&p->decode, key, "\"%s\" is given twice", lists[i].name);
        seen |= 1u << i;
        r = read_list(p, lists[i].name, lists[i].add);
        if (r < 0)
            return r;
        yaml_source_item_done(s);
    }
    return r;
}

static int read_stream(struct file_parse *p)
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

int mesh_file_parse(const char *origin, const void *text, size_t len, const char *trust_domain,
                    struct mesh_file **ret, struct mesh_file_error *error)
{
    struct file_parse p = {.trust_domain = trust_domain};
    int r;

    memset(error, 0, sizeof(*error));
    p.file = calloc(1, sizeof(*p.file));
    r = p.file ? yaml_source_open(&p.source, origin, text, len, error) : -ENOMEM;
    if (r == 0) {
        p.decode.source = &p.source;
        r = read_stream(&p);
        if (r == 0)
            r = index_namespaces_and_workloads(&p);
        if (r == 0)
            r = index_services_and_policies(&p);
        if (r == 0)
            r = check_references(&p, &p.services, &p.file->services_by_name, service_is, "services",
                                 "service");
        if (r == 0)
            r = check_references(&p, &p.policies, &p.file->policies_by_name, policy_is,
                                 "authorizationPolicies", "policy");
        yaml_source_close(&p.source);
    }
    index_free(&p.words);
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

int mesh_file_load(const char *path, const char *trust_domain, struct mesh_file **ret,
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
    return mesh_file_parse(path, text, len, trust_domain, ret, error);
}

void mesh_file_free(struct mesh_file **file)
{
    struct mesh_file *f = *file;

    if (!f)
        return;
    index_free(&f->namespaces_by_name);
    index_free(&f->workloads_by_uid);
    index_free(&f->workloads_by_name);
    index_free(&f->services_by_name);
    index_free(&f->policies_by_name);
    free(f->namespaces);
    free(f->workloads);
    free(f->services);
    free(f->policies);
    arena_free(&f->arena);
    free(f);
    *file = NULL;
}

const struct mesh_namespace *mesh_file_namespace(const struct mesh_file *file, const char *name)
{
    return index_find(&file->namespaces_by_name, index_hash_text(0, name), namespace_is, name);
}

const struct mesh_workload *mesh_file_workload(const struct mesh_file *file, const char *namespace,
                                               const char *name, const char *node)
{
    const char *const key[] = {namespace, name};
    const struct mesh_workload *w, *anywhere = NULL, *first = NULL;
    size_t position = 0;

    while ((w = index_next(&file->workloads_by_name, workload_hash(namespace, name), workload_is, key,
                           &position))) {
        if (*w->node && !strcmp(w->node, node))
            return w;
        if (!*w->node && !anywhere)
            anywhere = w;
        if (!first)
            first = w;
    }
    return anywhere ? anywhere : first;
}

const struct mesh_workload *mesh_file_workload_by_uid(const struct mesh_file *file, const char *uid)
{
    return index_find(&file->workloads_by_uid, index_hash_text(0, uid), uid_is, uid);
}
