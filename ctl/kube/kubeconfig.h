/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How an API server is reached, by a kubeconfig as kubectl reads it: the files of KUBECONFIG are merged (the
 * first that names something counts), relative paths are relative to the file that has them.
 */
#ifndef CTL_KUBE_KUBECONFIG_H
#define CTL_KUBE_KUBECONFIG_H

#include <stdbool.h>
#include <stddef.h>

#define KUBECONFIG_GROUPS_MAX 32  /* groups to impersonate */
#define KUBECONFIG_WORDS_MAX  64  /* arguments, or variables, of a credential plugin */
#define KUBECONFIG_ERROR_MAX  512 /* bytes of an error's text with its NUL */

/* A program that says who the user is. */
struct kube_exec {
    char *api_version, *command, *install_hint; /* install_hint: or NULL */
    char *arguments[KUBECONFIG_WORDS_MAX + 1];  /* NULL behind the last */
    char *variables[KUBECONFIG_WORDS_MAX + 1];  /* "NAME=VALUE" */
    bool provide_cluster;
    enum { KUBE_EXEC_IF_AVAILABLE, KUBE_EXEC_NEVER, KUBE_EXEC_ALWAYS } interactive;
};

/* Texts are NULL where nothing is said. */
struct kube_access {
    char *context; /* "": in a pod, by its service account */
    char *server;  /* "https://10.0.0.1:6443", without a slash at the end */
    char *namespace, *tls_server_name, *proxy_url;
    char *ca, *certificate, *key; /* PEM */
    bool insecure;                /* the server's certificate is not checked */
    char *token, *user, *password;
    char *as_user, *as_uid, *as_groups[KUBECONFIG_GROUPS_MAX + 1]; /* NULL behind the last */
    struct kube_exec *exec;                                        /* or NULL */
    bool stop;                                                     /* atomic; set by kube_access_stop() */
};

/* Ends all requests and forwarded ports of the access, and lets none begin. Any thread. */
void kube_access_stop(struct kube_access *access);
/* Whether that was called. Any thread. */
bool kube_access_is_stopped(const struct kube_access *access);

/* Where kubectl would look: a path as --kubeconfig takes it, a list as KUBECONFIG has it, or ~/.kube/config.
 * Whether any of the files is there, or this is a pod with a service account. */
bool kubeconfig_is_there(const char *path);

/*
 * path: of --kubeconfig; NULL: as above. context: NULL is the current one. 0; -ENOENT: there is no file;
 * -EINVAL: it is not as it must be; -EIO: a file that it names cannot be read; -ENOMEM. error has words for
 * people then. The plugin is not run (exec_credential_get()). The caller frees *ret.
 */
int kubeconfig_load(const char *path, const char *context, struct kube_access **ret,
                    char error[KUBECONFIG_ERROR_MAX]);
/* The same of a text, in which paths are relative to directory. 0 or -errno as above. */
int kubeconfig_parse(const char *text, size_t len, const char *directory, const char *context,
                     struct kube_access **ret, char error[KUBECONFIG_ERROR_MAX]);
void kube_access_free(struct kube_access **access);

#endif
