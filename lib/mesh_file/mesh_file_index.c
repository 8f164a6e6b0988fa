/* SPDX-License-Identifier: Apache-2.0 */
/* What a mesh file has, by its names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/mesh_file/mesh_file_parse.h"

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
    return item_index_hash_text(item_index_hash_text(0, namespace), name);
}

static int twice(struct mesh_file_parse *p, const char *list, size_t i, const char *what, uint32_t line,
                 uint32_t other)
{
    return yaml_fail(p->source.error, p->source.origin, line, 1, "%s[%zu]: %.300s is already at line %u",
                     list, i, what, other);
}

/* Adds item under key, unless one is there. */
static int add_unique(struct item_index *index, item_index_match_fn match, const char *key, void *item,
                      void **ret_other)
{
    uint64_t hash = item_index_hash_text(0, key);

    *ret_other = item_index_find(index, hash, match, key);
    return *ret_other ? -EEXIST : item_index_add(index, hash, item);
}

static int index_namespaces_and_workloads(struct mesh_file_parse *p)
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
            r = item_index_add(&f->workloads_by_name, workload_hash(w->namespace, w->name), w);
        if (r < 0)
            return r;
    }
    return 0;
}

static int index_services_and_policies(struct mesh_file_parse *p)
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
static int check_references(struct mesh_file_parse *p, const struct mesh_file_references *references,
                            const struct item_index *index, item_index_match_fn match, const char *field,
                            const char *what)
{
    for (size_t i = 0; i < references->len; i++) {
        const struct mesh_file_reference *r = &references->list[i];

        if (!item_index_find(index, item_index_hash_text(0, r->name), match, r->name))
            return yaml_fail(p->source.error, p->source.origin, r->line, r->column,
                             "workloads[%u].%s: \"%.300s\" is not a %s of this file", r->workload, field,
                             r->name, what);
    }
    return 0;
}

int mesh_file_index(struct mesh_file_parse *p)
{
    int r = index_namespaces_and_workloads(p);

    if (r == 0)
        r = index_services_and_policies(p);
    if (p->part)
        return r;
    if (r == 0)
        r = check_references(p, &p->services, &p->file->services_by_name, service_is, "services", "service");
    if (r == 0)
        r = check_references(p, &p->policies, &p->file->policies_by_name, policy_is, "authorizationPolicies",
                             "policy");
    return r;
}

void mesh_file_free(struct mesh_file **file)
{
    struct mesh_file *f = *file;

    if (!f)
        return;
    item_index_free(&f->namespaces_by_name);
    item_index_free(&f->workloads_by_uid);
    item_index_free(&f->workloads_by_name);
    item_index_free(&f->services_by_name);
    item_index_free(&f->policies_by_name);
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
    return item_index_find(&file->namespaces_by_name, item_index_hash_text(0, name), namespace_is, name);
}

const struct mesh_workload *mesh_file_workload(const struct mesh_file *file, const char *namespace,
                                               const char *name, const char *node)
{
    const char *const key[] = {namespace, name};
    const struct mesh_workload *w, *anywhere = NULL, *first = NULL;
    size_t position = 0;

    while ((w = item_index_next(&file->workloads_by_name, workload_hash(namespace, name), workload_is, key,
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
    return item_index_find(&file->workloads_by_uid, item_index_hash_text(0, uid), uid_is, uid);
}
