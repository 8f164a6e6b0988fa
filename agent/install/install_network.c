/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "install"
#include "agent/install/install_network.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/install/cni_conf.h"
#include "agent/install/install_file.h"
#include "lib/cleanup.h"
#include "lib/log.h"

#define MADE ".bruma.conflist" /* lists that we make of single plugins */

struct configuration {
    const char *name;
    char path[512];
    struct install_file file;
    enum cni_conf_kind kind;
};

static int report_failure(struct install_network *n, enum bruma_reason reason, const char *path, int r)
{
    const char *text = r == -EBADMSG ? "its list of plugins cannot be edited safely"
                       : r == -EBUSY ? "another program keeps changing it"
                                     : strerror(-r);

    n->reason = reason;
    snprintf(n->error, sizeof(n->error), "%.250s: %.100s", path, text);
    return r;
}

/* ---- the directory ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), n = strlen(end);

    return len >= n && !strcmp(text + len - n, end);
}

/* As libcni has it, for which a name that begins with a dot is one like any other. */
static int is_configuration(const struct dirent *e)
{
    return ends_with(e->d_name, ".conf") || ends_with(e->d_name, ".conflist") ||
           ends_with(e->d_name, ".json");
}

/* By bytes, as runtimes sort; alphasort() would follow the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void note_unusable(struct install_network *n, const char *name, const char *why)
{
    size_t len = strlen(n->unusable);

    snprintf(n->unusable + len, sizeof(n->unusable) - len, "%s%.100s: %.80s", len ? "; " : "", name, why);
}

/* What cannot be read or used is a bad one. */
static void load(const struct install_network *n, const char *name, struct configuration *c, char *why,
                 size_t why_size)
{
    int r;

    memset(c, 0, sizeof(*c));
    c->name = name;
    c->kind = CNI_CONF_BAD;
    r = snprintf(c->path, sizeof(c->path), "%s/%s", n->directory, name) >= (int)sizeof(c->path)
            ? -ENAMETOOLONG
            : install_file_read(c->path, &c->file);
    if (r < 0)
        snprintf(why, why_size, "%s", strerror(-r));
    else
        c->kind = cni_conf_kind(c->file.text, c->file.len, why, why_size);
}

static void unload(struct configuration *c)
{
    install_file_clear(&c->file);
}

static enum cni_conf_kind kind_of(const struct install_network *n, const char *name, char *why,
                                  size_t why_size)
{
    struct configuration c;

    load(n, name, &c, why, why_size);
    unload(&c);
    return c.kind;
}

/* The list of our own, and not somebody's file of that name. */
static bool is_own(const struct install_network *n, const char *name)
{
    struct configuration c;
    char why[80];
    bool own;

    if (!n->own_name || strcmp(name, n->own_name) != 0)
        return false;
    load(n, name, &c, why, sizeof(why));
    own = c.kind == CNI_CONF_LIST && cni_conf_is_copy(c.file.text, c.file.len);
    unload(&c);
    return own;
}

/* Which file the runtime loads, or would load if we had made no list of it. Those before it that cannot be
 * used stop some runtimes; others pass over them. */
static int find_first(struct install_network *n, struct dirent **names, int count)
{
    char why[80];

    for (int i = 0; i < count; i++) {
        if (ends_with(names[i]->d_name, MADE) || is_own(n, names[i]->d_name))
            continue;
        if (kind_of(n, names[i]->d_name, why, sizeof(why)) != CNI_CONF_BAD)
            return i;
        note_unusable(n, names[i]->d_name, why);
    }
    return -1;
}

/* ---- changes ---- */

static int may_write(struct install_network *n, const char *path)
{
    int r = n->may_write ? n->may_write(n->data) : 0;

    return r < 0 ? report_failure(n, BRUMA_REASON_CNI_CONF_CONTESTED, path, r) : 0;
}

static int edit(struct install_network *n, const struct configuration *c, const char *text, size_t len)
{
    int r = may_write(n, c->path);

    if (r == 0) {
        r = install_file_replace(c->path, &c->file, text, len);
        if (r < 0 && r != -EAGAIN)
            report_failure(n, BRUMA_REASON_CNI_INSTALL_FAILED, c->path, r);
    }
    if (r == 0)
        n->changes++;
    return r;
}

static int add_to_list(struct install_network *n, const struct configuration *c)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r;

    if (!cni_conf_has(c->file.text, c->file.len, n->entry)) {
        r = cni_conf_add(c->file.text, c->file.len, n->entry, &text, &len);
        if (r < 0)
            return report_failure(n, BRUMA_REASON_CNI_INSTALL_FAILED, c->path, r);
        r = edit(n, c, text, len);
        if (r < 0)
            return r;
        log_info("bruma-cni was added to a network\tfile=\"%s\"", c->path);
    }
    snprintf(n->file, sizeof(n->file), "%s", c->path);
    return 0;
}

/* The name that a list made of this file has, without the directory. */
static void made_name(const char *name, char *buf, size_t size)
{
    snprintf(buf, size, "%.*s" MADE, (int)(strrchr(name, '.') - name), name);
}

/* Paced as edits are: some agents take the files of others away as soon as they see them. 1 if it was
 * written. */
static int put_made(struct install_network *n, const char *path, const struct configuration *c,
                    const char *text, size_t len)
{
    struct install_file now = {};
    bool same = install_file_read(path, &now) == 0 && now.len == len && !memcmp(now.text, text, len);
    int r = same ? 0 : may_write(n, path);

    install_file_clear(&now);
    return same || r < 0 ? r : install_file_make(path, &c->file, text, len);
}

/* r: how text, the content, was made. */
static int put_list(struct install_network *n, const char *name, const struct configuration *c, int r,
                    const char *text, size_t len, const char *words)
{
    char path[512];

    if (r == 0 && snprintf(path, sizeof(path), "%s/%s", n->directory, name) >= (int)sizeof(path))
        r = -ENAMETOOLONG;
    if (r == 0)
        r = put_made(n, path, c, text, len);
    if (r == -EBUSY)
        return r; /* may_write() has said why */
    if (r < 0)
        return report_failure(n, BRUMA_REASON_CNI_INSTALL_FAILED, c->path, r);
    if (r == 1) {
        log_info("%s\tfile=\"%s\" of=\"%s\"", words, path, c->path);
        n->changes++;
    }
    snprintf(n->file, sizeof(n->file), "%s", path);
    return 0;
}

static int make_list(struct install_network *n, const struct configuration *c)
{
    _cleanup_free_ char *text = NULL;
    char name[300];
    size_t len = 0;
    int r = cni_conf_wrap(c->file.text, c->file.len, n->entry, &text, &len);

    made_name(c->name, name, sizeof(name));
    return put_list(n, name, c, r, text, len, "a list with bruma-cni was made of a network of one plugin");
}

static int make_own(struct install_network *n, const struct configuration *c)
{
    _cleanup_free_ char *text = NULL, *entry = cni_conf_copy_entry(n->entry, c->name);
    size_t len = 0;
    int r = !entry                       ? -ENOMEM
            : c->kind == CNI_CONF_SINGLE ? cni_conf_wrap(c->file.text, c->file.len, entry, &text, &len)
                                         : cni_conf_add(c->file.text, c->file.len, entry, &text, &len);

    return put_list(n, n->own_name, c, r, text, len, "a list of our own was made, which comes first");
}

static int take_out(struct install_network *n, const struct configuration *c)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r;

    /* What we would not edit we have not edited. */
    if (c->kind != CNI_CONF_LIST || cni_conf_remove(c->file.text, c->file.len, &text, &len) != 1)
        return 0;
    r = edit(n, c, text, len);
    if (r == 0)
        log_info("bruma-cni was taken out of a network\tfile=\"%s\"", c->path);
    return r;
}

/* A list of ours stays for as long as the file that it was made of is the one to load, and while that one is
 * being written. */
static bool still_wanted(const struct install_network *n, const char *made, const char *first)
{
    static const char *const ends[] = {".conf", ".json"};
    char name[300], why[80];

    if (!n->entry)
        return false;
    if (first && !ends_with(first, ".conflist")) {
        made_name(first, name, sizeof(name));
        if (!strcmp(name, made) && kind_of(n, first, why, sizeof(why)) == CNI_CONF_SINGLE)
            return true;
    }
    for (size_t i = 0; i < array_size(ends); i++) {
        char path[512];

        snprintf(name, sizeof(name), "%.*s%s", (int)(strlen(made) - strlen(MADE)), made, ends[i]);
        if (snprintf(path, sizeof(path), "%s/%s", n->directory, name) < (int)sizeof(path) &&
            access(path, F_OK) == 0 && kind_of(n, name, why, sizeof(why)) == CNI_CONF_BAD)
            return true;
    }
    return false;
}

static int drop_made(struct install_network *n, const char *name, const char *first)
{
    char path[512];

    if (still_wanted(n, name, first))
        return 0;
    if (snprintf(path, sizeof(path), "%s/%s", n->directory, name) >= (int)sizeof(path))
        return 0;
    if (unlink(path) < 0 && errno != ENOENT)
        return report_failure(n, BRUMA_REASON_CNI_INSTALL_FAILED, path, -errno);
    n->changes++;
    log_info("a list that Bruma had written was removed\tfile=\"%s\"", path);
    return 0;
}

static int drop_own(struct install_network *n)
{
    char path[512];

    if (snprintf(path, sizeof(path), "%s/%s", n->directory, n->own_name) >= (int)sizeof(path))
        return 0;
    if (unlink(path) < 0 && errno != ENOENT)
        return report_failure(n, BRUMA_REASON_CNI_INSTALL_FAILED, path, -errno);
    n->changes++;
    log_info("the list of our own was removed\tfile=\"%s\"", path);
    return 0;
}

/* Somebody's file may come before it, or have its name: then the entry goes where it would go without. */
static bool own_comes_first(struct install_network *n, const char *first)
{
    if (!n->own)
        return false;
    if (strcmp(n->own_name, first) < 0)
        return true;
    note_unusable(n, n->own_name, "does not sort before the network's own file, so it is not made");
    return false;
}

static int handle(struct install_network *n, const char *name, const char *first, bool own)
{
    struct configuration c;
    char why[80];
    int r;

    if (is_own(n, name)) {
        if (own || (!first && n->entry && n->keep_own))
            return 0;
        return drop_own(n);
    }
    /* A file of one plugin needs no list beside it then. */
    if (ends_with(name, MADE))
        return drop_made(n, name, own ? NULL : first);
    load(n, name, &c, why, sizeof(why));
    if (own && first && !strcmp(name, first) && c.kind != CNI_CONF_BAD) {
        r = make_own(n, &c);
        if (r == 0)
            r = take_out(n, &c);
    } else if (!first || strcmp(name, first) != 0)
        r = take_out(n, &c);
    else if (c.kind == CNI_CONF_BAD)
        r = -EAGAIN; /* it was good a moment ago */
    else
        r = c.kind == CNI_CONF_SINGLE ? make_list(n, &c) : add_to_list(n, &c);
    unload(&c);
    return r;
}

int install_network_look(struct install_network *n)
{
    struct dirent **names = NULL;
    int count = scandir(n->directory, &names, is_configuration, by_name), first;

    n->file[0] = n->error[0] = n->unusable[0] = '\0';
    n->reason = BRUMA_REASON_NONE;
    if (count < 0)
        return report_failure(n, BRUMA_REASON_CNI_CONF_MISSING, n->directory, -errno);
    first = find_first(n, names, count);
    if (first >= 0)
        snprintf(n->file, sizeof(n->file), "%s/%s", n->directory, names[first]->d_name);
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
    return 0;
}

int install_network_apply(struct install_network *n)
{
    struct dirent **names = NULL;
    int count = scandir(n->directory, &names, is_configuration, by_name), first = -1, result = 0;
    bool own = false;

    n->file[0] = n->error[0] = n->unusable[0] = '\0';
    n->reason = BRUMA_REASON_NONE;
    n->changes = 0;
    n->orphaned = false;
    if (count < 0)
        return report_failure(n, BRUMA_REASON_CNI_CONF_MISSING, n->directory, -errno);
    if (n->entry)
        first = find_first(n, names, count);
    if (first >= 0)
        own = own_comes_first(n, names[first]->d_name);
    for (int i = 0; first < 0 && i < count; i++)
        n->orphaned |= is_own(n, names[i]->d_name);
    /* The first one first: what is wrong with others is less than a node without the entry. */
    if (first >= 0)
        result = handle(n, names[first]->d_name, names[first]->d_name, own);
    for (int i = 0; i < count; i++) {
        int r = i == first ? 0 : handle(n, names[i]->d_name, first >= 0 ? names[first]->d_name : NULL, own);

        if (result == 0)
            result = r;
    }
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
    if (result == 0 && n->entry && first < 0) {
        n->reason = BRUMA_REASON_CNI_CONF_MISSING;
        snprintf(n->error, sizeof(n->error), "%.150s: no usable configuration%s%.200s", n->directory,
                 *n->unusable ? ": " : "", n->unusable);
        result = -ENOENT;
    }
    return result;
}
