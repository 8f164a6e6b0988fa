/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/config_file.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

#include "ctl/kube/base64.h"
#include "ctl/kube/kubeconfig.h"
#include "lib/cleanup.h"
#include "lib/file.h"
#include "lib/yaml_node.h"

int config_part_fail(const struct config_part *part, char *error, const char *format, ...)
{
    va_list ap;
    int n = snprintf(error, KUBECONFIG_ERROR_MAX, "%.200s, line %zu: ", part->file->path,
                     part->node ? part->node->start_mark.line + 1 : 1);

    va_start(ap, format);
    vsnprintf(error + n, KUBECONFIG_ERROR_MAX - (size_t)n, format, ap);
    va_end(ap);
    return -EINVAL;
}

/* ---- files ---- */

char *config_paths(const char *path)
{
    const char *list = getenv("KUBECONFIG"), *home = getenv("HOME");
    char *text = NULL;

    if (path)
        return strdup(path);
    if (list && *list)
        return strdup(list);
    return asprintf(&text, "%s/.kube/config", home && *home ? home : "") < 0 ? NULL : text;
}

static void file_free(struct config_file *file)
{
    free(file->path);
    free(file->directory);
    free(file);
}

static int load(struct config_file *file, const char *text, size_t len, char *error)
{
    yaml_parser_t parser;
    int r = 0;

    if (!yaml_parser_initialize(&parser))
        return -ENOMEM;
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    if (!yaml_parser_load(&parser, &file->document)) {
        r = parser.error == YAML_MEMORY_ERROR ? -ENOMEM : -EINVAL;
        snprintf(error, KUBECONFIG_ERROR_MAX, "%.200s, line %zu: not YAML: %s", file->path,
                 parser.problem_mark.line + 1, parser.problem ? parser.problem : "unreadable");
    }
    yaml_parser_delete(&parser);
    return r;
}

int config_files_add(struct config_files *files, const char *text, size_t len, const char *path,
                     const char *directory, char *error)
{
    struct config_file *file = calloc(1, sizeof(*file));
    struct config_part root;
    int r = -ENOMEM;

    if (files->len == CONFIG_FILES_MAX) {
        free(file);
        snprintf(error, KUBECONFIG_ERROR_MAX, "more than %d kubeconfigs", CONFIG_FILES_MAX);
        return -EINVAL;
    }
    if (file) {
        file->path = strdup(path);
        file->directory = strdup(directory);
    }
    if (file && file->path && file->directory)
        r = load(file, text, len, error);
    if (r < 0) {
        if (file)
            file_free(file);
        return r;
    }
    files->each[files->len++] = file;
    root = (struct config_part){file, yaml_document_get_root_node(&file->document)};
    if (!yaml_node_is_nothing(root.node) && root.node->type != YAML_MAPPING_NODE)
        return config_part_fail(&root, error, "a map is expected");
    return 0;
}

static int read_one(struct config_files *files, const char *path, bool must, char *error)
{
    _cleanup_free_ char *text = NULL, *directory = NULL;
    const char *slash = strrchr(path, '/');
    size_t len;
    int r;

    if (!must && access(path, F_OK) < 0 && errno == ENOENT)
        return 0;
    r = file_read(AT_FDCWD, path, 0, CONFIG_FILE_MAX, &text, &len);
    if (r < 0) {
        snprintf(error, KUBECONFIG_ERROR_MAX, "%.400s cannot be read: %s", path, strerror(-r));
        return r == -ENOMEM ? r : r == -ENOENT ? -ENOENT : -EIO;
    }
    directory = slash == path ? strdup("/") : slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
    return directory ? config_files_add(files, text, len, path, directory, error) : -ENOMEM;
}

int config_files_read(struct config_files *files, const char *list, bool must, char *error)
{
    _cleanup_free_ char *copy = strdup(list);
    char *rest = copy, *one;
    int r = copy ? 0 : -ENOMEM;

    if (must && r == 0)
        return read_one(files, list, true, error);
    while (r == 0 && (one = strsep(&rest, ":")))
        r = *one ? read_one(files, one, false, error) : 0;
    return r;
}

void config_files_close(struct config_files *files)
{
    for (size_t i = 0; i < files->len; i++) {
        yaml_document_delete(&files->each[i]->document);
        file_free(files->each[i]);
    }
    files->len = 0;
}

/* ---- parts ---- */

static const yaml_node_t *member(const struct config_part *part, const char *name)
{
    const yaml_node_t *node = part->node && part->node->type == YAML_MAPPING_NODE
                                  ? yaml_node_member(&part->file->document, part->node, name, NULL)
                                  : NULL;

    return yaml_node_is_nothing(node) ? NULL : node;
}

static int copy_text(const struct config_part *part, const yaml_node_t *node, const char *name, char **ret,
                     char *error)
{
    const char *text = yaml_node_text(node);

    if (!text)
        return config_part_fail(part, error, "%s is no text", name);
    *ret = strdup(text);
    return *ret ? 0 : -ENOMEM;
}

int config_part_text(const struct config_part *part, const char *name, char **ret, char *error)
{
    const yaml_node_t *node = member(part, name);

    *ret = NULL;
    return node ? copy_text(part, node, name, ret, error) : 0;
}

int config_part_bool(const struct config_part *part, const char *name, bool *ret, char *error)
{
    const yaml_node_t *node = member(part, name);
    const char *text = yaml_node_text(node);

    if (!node)
        return 0;
    if (text && !strcmp(text, "true"))
        *ret = true;
    else if (text && !strcmp(text, "false"))
        *ret = false;
    else
        return config_part_fail(part, error, "%s is neither true nor false", name);
    return 0;
}

int config_part_map(const struct config_part *part, const char *name, struct config_part *ret, char *error)
{
    *ret = (struct config_part){part->file, member(part, name)};
    if (ret->node && ret->node->type != YAML_MAPPING_NODE)
        return config_part_fail(part, error, "%s is no map", name);
    return 0;
}

int config_part_file(const struct config_part *part, const char *name, char **ret, char *error)
{
    _cleanup_free_ char *named = NULL, *path = NULL;
    size_t len;
    int r = config_part_text(part, name, &named, error);

    *ret = NULL;
    if (r < 0 || !named || !*named)
        return r;
    if (asprintf(&path, "%s%s%s", *named == '/' ? "" : part->file->directory, *named == '/' ? "" : "/",
                 named) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    r = file_read(AT_FDCWD, path, 0, CONFIG_FILE_MAX, ret, &len);
    if (r == 0 || r == -ENOMEM)
        return r;
    (void)config_part_fail(part, error, "%s %.200s cannot be read: %s", name, path, strerror(-r));
    return -EIO;
}

int config_part_base64(const struct config_part *part, const char *name, char **ret, char *error)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = config_part_text(part, name, &text, error);

    *ret = NULL;
    if (r < 0 || !text || !*text)
        return r;
    r = base64_decode(text, ret, &len);
    if (r == 0 && strlen(*ret) != len) {
        free(take_pointer(*ret));
        r = -EBADMSG;
    }
    return r == -EBADMSG ? config_part_fail(part, error, "%s is not base64 of a text", name) : r;
}

/* Entry n of the list, or NULL; -EINVAL if it is no list. */
static int entry(const struct config_part *part, const char *name, size_t n, const yaml_node_t **ret,
                 char *error)
{
    const yaml_node_t *list = member(part, name);

    *ret = NULL;
    if (!list)
        return 0;
    if (list->type != YAML_SEQUENCE_NODE)
        return config_part_fail(part, error, "%s is no list", name);
    if (n < (size_t)(list->data.sequence.items.top - list->data.sequence.items.start))
        *ret = yaml_document_get_node(&part->file->document, list->data.sequence.items.start[n]);
    return 0;
}

int config_part_item(const struct config_part *part, const char *name, size_t n, char **ret, char *error)
{
    const yaml_node_t *node;
    int r = entry(part, name, n, &node, error);

    *ret = NULL;
    return r == 0 && node ? copy_text(part, node, name, ret, error) : r;
}

int config_part_at(const struct config_part *part, const char *name, size_t n, struct config_part *ret,
                   char *error)
{
    int r;

    ret->file = part->file;
    r = entry(part, name, n, &ret->node, error);
    if (r == 0 && ret->node && ret->node->type != YAML_MAPPING_NODE)
        return config_part_fail(part, error, "an entry of %s is no map", name);
    return r;
}

/* ---- what is looked for in all of them ---- */

static struct config_part root_of(struct config_file *file)
{
    return (struct config_part){file, yaml_document_get_root_node(&file->document)};
}

int config_current(const struct config_files *files, char **ret, char *error)
{
    for (size_t i = 0; i < files->len; i++) {
        struct config_part root = root_of(files->each[i]);
        int r = config_part_text(&root, "current-context", ret, error);

        if (r < 0 || (*ret && **ret))
            return r;
        free(take_pointer(*ret));
    }
    snprintf(error, KUBECONFIG_ERROR_MAX, "%.200s: no context is the current one; choose one by --context",
             files->each[0]->path);
    return -EINVAL;
}

/* In one file; ret->node NULL: not there. */
static int find_in(struct config_file *file, const char *list, const char *name, const char *key,
                   struct config_part *ret, char *error)
{
    struct config_part root = root_of(file), one;

    for (size_t n = 0;; n++) {
        _cleanup_free_ char *found = NULL;
        int r = config_part_at(&root, list, n, &one, error);

        *ret = (struct config_part){file, NULL};
        if (r < 0 || !one.node)
            return r;
        r = config_part_text(&one, "name", &found, error);
        if (r < 0)
            return r;
        if (!found || strcmp(found, name) != 0)
            continue;
        r = config_part_map(&one, key, ret, error);
        return r == 0 && !ret->node ? config_part_fail(&one, error, "%s has no %s", name, key) : r;
    }
}

int config_find(const struct config_files *files, const char *list, const char *name, const char *key,
                struct config_part *ret, char *error)
{
    for (size_t i = 0; i < files->len; i++) {
        int r = find_in(files->each[i], list, name, key, ret, error);

        if (r < 0 || ret->node)
            return r;
    }
    snprintf(error, KUBECONFIG_ERROR_MAX, "%.200s: there is no %s \"%.200s\"%s", files->each[0]->path, key,
             name, files->len > 1 ? ", nor in the files behind it" : "");
    return -EINVAL;
}
