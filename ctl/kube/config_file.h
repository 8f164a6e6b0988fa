/* SPDX-License-Identifier: Apache-2.0 */
/* The files of a kubeconfig as YAML, and their parts. Errors are texts for people, which name file and line;
 * functions that fail return -EINVAL, -EIO (a file that is named cannot be read) or -ENOMEM. */
#ifndef CTL_KUBE_CONFIG_FILE_H
#define CTL_KUBE_CONFIG_FILE_H

#include <stdbool.h>
#include <yaml.h>

#define CONFIG_FILES_MAX 32         /* files in KUBECONFIG */
#define CONFIG_FILE_MAX  (1u << 20) /* bytes */

struct config_file {
    char *path, *directory;
    yaml_document_t document;
};

struct config_files {
    struct config_file *each[CONFIG_FILES_MAX];
    size_t len;
};

/* A map of a file; node NULL: it is not there, and everything in it is not either. */
struct config_part {
    struct config_file *file;
    const yaml_node_t *node;
};

/* A list with ":": of --kubeconfig (NULL: not given) that one path, else KUBECONFIG, else ~/.kube/config. The
 * caller's; NULL without memory. */
char *config_paths(const char *path);
/* Of the files in the list those that are there; must: a missing one is an error. 0 or as above. */
int config_files_read(struct config_files *files, const char *list, bool must, char *error);
/* One more, of a text; path is for errors. 0 or as above. */
int config_files_add(struct config_files *files, const char *text, size_t len, const char *path,
                     const char *directory, char *error);
/* Frees what it holds, not the struct. */
void config_files_close(struct config_files *files);

/* The first current-context, which the caller frees. 0 or as above. */
int config_current(const struct config_files *files, char **ret, char *error);
/* The map "key" of the first entry with this name in the list, such as "context" of one in "contexts"; it has
 * to be there. 0 or as above. */
int config_find(const struct config_files *files, const char *list, const char *name, const char *key,
                struct config_part *ret, char *error);

/* What ret holds is the caller's, and NULL (of a map: node NULL; of a bool: unchanged) where there is none.
 * All return 0 or as above. */
int config_part_text(const struct config_part *part, const char *name, char **ret, char *error);
int config_part_bool(const struct config_part *part, const char *name, bool *ret, char *error);
int config_part_map(const struct config_part *part, const char *name, struct config_part *ret, char *error);
/* The contents of the file that it names: the caller's, NULL where there is none. 0 or as above. */
int config_part_file(const struct config_part *part, const char *name, char **ret, char *error);
/* What it holds in base64, without a NUL: the caller's, NULL where there is none. 0 or as above. */
int config_part_base64(const struct config_part *part, const char *name, char **ret, char *error);
/* Entry n of a list of texts: the caller's, NULL behind the last. 0 or as above. */
int config_part_item(const struct config_part *part, const char *name, size_t n, char **ret, char *error);
/* Entry n of a list of maps; node NULL behind the last. 0 or as above. */
int config_part_at(const struct config_part *part, const char *name, size_t n, struct config_part *ret,
                   char *error);
/* Writes an error about the part, with its line; -EINVAL. */
__attribute__((format(printf, 3, 4))) int config_part_fail(const struct config_part *part, char *error,
                                                           const char *format, ...);

#endif
