/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/kubeconfig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONTEXT  "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u, namespace: shop}}]\n"
#define CLUSTER  "clusters: [{name: k, cluster: {server: 'https://10.0.0.1:6443/'}}]\n"
#define USER(x)  "users: [{name: u, user: {" x "}}]\n"
#define PEM      "-----BEGIN CERTIFICATE-----\n"
#define PEM_DATA "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="

static char error[KUBECONFIG_ERROR_MAX];

static struct kube_access *parse(const char *text)
{
    struct kube_access *a = NULL;
    int r = kubeconfig_parse(text, strlen(text), "/nowhere", NULL, &a, error);

    cr_assert_eq(r, 0, "%s", error);
    return a;
}

static void refuse(const char *text, const char *words)
{
    struct kube_access *a = NULL;
    int r = kubeconfig_parse(text, strlen(text), "/nowhere", NULL, &a, error);

    cr_expect(r == -EINVAL || r == -EIO, "%s: %d", text, r);
    cr_expect(strstr(error, words) != NULL, "%s: \"%s\", not \"%s\"", text, error, words);
    cr_expect_null(a);
}

Test(kubeconfig, token_and_server)
{
    struct kube_access *a = parse(CONTEXT CLUSTER USER("token: abc"));

    cr_expect_str_eq(a->server, "https://10.0.0.1:6443");
    cr_expect_str_eq(a->namespace, "shop");
    cr_expect_str_eq(a->context, "c");
    cr_expect_str_eq(a->token, "abc");
    cr_expect(!a->ca && !a->certificate && !a->exec && !a->insecure);
    kube_access_free(&a);
    cr_expect_null(a);
}

Test(kubeconfig, everything_of_a_user)
{
    struct kube_access *a = parse(
        CONTEXT "clusters: [{name: k, cluster: {server: https://h, certificate-authority-data: " PEM_DATA
                ", tls-server-name: other, proxy-url: 'http://p:3128'}}]\n" USER(
                    "client-certificate-data: " PEM_DATA ", client-key-data: " PEM_DATA
                    ", username: n, password: p, as: eve, as-uid: '7', as-groups: [x, y], "
                    "exec: {apiVersion: client.authentication.k8s.io/v1, command: bin/login, args: [a, b], "
                    "env: [{name: K, value: v}], interactiveMode: Always, provideClusterInfo: true}"));

    cr_expect_str_eq(a->ca, PEM);
    cr_expect_str_eq(a->certificate, PEM);
    cr_expect_str_eq(a->key, PEM);
    cr_expect_str_eq(a->tls_server_name, "other");
    cr_expect_str_eq(a->proxy_url, "http://p:3128");
    cr_expect(!strcmp(a->user, "n") && !strcmp(a->password, "p"));
    cr_expect(!strcmp(a->as_user, "eve") && !strcmp(a->as_uid, "7"));
    cr_expect(!strcmp(a->as_groups[0], "x") && !strcmp(a->as_groups[1], "y") && !a->as_groups[2]);
    cr_expect_str_eq(a->exec->command, "/nowhere/bin/login");
    cr_expect(!strcmp(a->exec->arguments[0], "a") && !strcmp(a->exec->arguments[1], "b") &&
              !a->exec->arguments[2]);
    cr_expect(!strcmp(a->exec->variables[0], "K=v") && !a->exec->variables[1]);
    cr_expect(a->exec->provide_cluster && a->exec->interactive == KUBE_EXEC_ALWAYS);
    kube_access_free(&a);
}

Test(kubeconfig, a_command_without_a_slash_is_looked_for_in_path)
{
    struct kube_access *a = parse(
        CONTEXT CLUSTER USER("exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: login}"));

    cr_expect_str_eq(a->exec->command, "login");
    cr_expect(a->exec->interactive == KUBE_EXEC_IF_AVAILABLE);
    kube_access_free(&a);
}

Test(kubeconfig, as_json_too)
{
    struct kube_access *a =
        parse("{\"current-context\": \"c\", \"clusters\": [{\"name\": \"k\", \"cluster\": "
              "{\"server\": \"https://h:1\", \"insecure-skip-tls-verify\": true}}], "
              "\"contexts\": [{\"name\": \"c\", \"context\": {\"cluster\": \"k\"}}]}");

    cr_expect(a->insecure && !a->token);
    kube_access_free(&a);
}

Test(kubeconfig, another_context)
{
    static const char text[] =
        "current-context: a\nclusters: [{name: k, cluster: {server: https://h}}]\n"
        "contexts: [{name: a, context: {cluster: none}}, {name: b, context: {cluster: k}}]\n";
    struct kube_access *a = NULL;

    cr_assert_eq(kubeconfig_parse(text, strlen(text), "/", "b", &a, error), 0, "%s", error);
    cr_expect_str_eq(a->server, "https://h");
    kube_access_free(&a);
    cr_expect_eq(kubeconfig_parse(text, strlen(text), "/", "z", &a, error), -EINVAL);
    cr_expect(strstr(error, "there is no context \"z\"") != NULL, "%s", error);
    refuse(text, "there is no cluster \"none\"");
}

Test(kubeconfig, bad_forms_are_named)
{
    refuse("", "no context is the current one");
    refuse("- a\n", "a map is expected");
    refuse("a: [", "not YAML");
    refuse("current-context: [1]\n", "current-context is no text");
    refuse("current-context: c\n", "there is no context \"c\"");
    refuse("current-context: c\ncontexts: {}\n", "contexts is no list");
    refuse("current-context: c\ncontexts: [x]\n", "an entry of contexts is no map");
    refuse("current-context: c\ncontexts: [{name: c}]\n", "c has no context");
    refuse("current-context: c\ncontexts: [{name: c, context: {user: u}}]\n", "names no cluster");
    refuse(CONTEXT "clusters: [{name: k, cluster: {}}]\n", "has no server");
    refuse(CONTEXT "clusters: [{name: k, cluster: {server: 'http://h'}}]\n", "no https URL");
    refuse(CONTEXT "clusters: [{name: k, cluster: {server: 'https://'}}]\n", "no https URL");
    refuse(CONTEXT "clusters: [{name: k, cluster: {server: 'https://a@b'}}]\n", "no plain URL");
    refuse(CONTEXT "clusters: [{name: k, cluster: {server: https://h, insecure-skip-tls-verify: maybe}}]\n",
           "neither true nor false");
    refuse(CONTEXT "clusters: [{name: k, cluster: {server: https://h, insecure-skip-tls-verify: true, "
                   "certificate-authority-data: " PEM_DATA "}}]\n",
           "exclude each other");
    refuse(CONTEXT "clusters: [{name: k, cluster: {server: https://h, certificate-authority: ca.pem}}]\n",
           "/nowhere/ca.pem cannot be read");
    refuse(CONTEXT
           "clusters: [{name: k, cluster: {server: https://h, certificate-authority-data: '?!*='}}]\n",
           "not base64");
    refuse(CONTEXT "clusters: [{name: k, cluster: {server: https://h, certificate-authority-data: AAAA}}]\n",
           "not base64 of a text");
    refuse(CONTEXT "clusters: [{name: k, cluster: {server: https://h, certificate-authority-data: YWJj}}]\n",
           "is not PEM");
    refuse(CONTEXT CLUSTER, "there is no user \"u\"");
    refuse(CONTEXT CLUSTER USER("token: ''"), "the token is empty");
    refuse(CONTEXT CLUSTER USER("tokenFile: t"), "/nowhere/t cannot be read");
    refuse(CONTEXT CLUSTER USER("client-key-data: " PEM_DATA),
           "client-key is given without client-certificate");
    refuse(CONTEXT CLUSTER USER("client-certificate-data: " PEM_DATA), "without client-key");
    refuse(CONTEXT CLUSTER USER("auth-provider: {name: gcp}"), "auth-provider is not supported");
    refuse(CONTEXT CLUSTER USER("exec: login"), "exec is no map");
    refuse(CONTEXT CLUSTER USER("exec: {command: x}"), "apiVersion of exec");
    refuse(CONTEXT CLUSTER USER("exec: {apiVersion: client.authentication.k8s.io/v1}"),
           "exec has no command");
    refuse(CONTEXT CLUSTER USER("exec: {apiVersion: client.authentication.k8s.io/v1, command: x, args: y}"),
           "args is no list");
    refuse(
        CONTEXT CLUSTER USER("exec: {apiVersion: client.authentication.k8s.io/v1, command: x, env: [{value: "
                             "y}]}"),
        "env has no name");
    refuse(CONTEXT CLUSTER USER("exec: {apiVersion: client.authentication.k8s.io/v1, command: x, "
                                "interactiveMode: Sometimes}"),
           "interactiveMode is none of");
    refuse(CONTEXT CLUSTER USER("as-groups: [[]]"), "as-groups is no text");
}

Test(kubeconfig, a_list_that_is_too_long)
{
    char text[2000] = CONTEXT CLUSTER "users: [{name: u, user: {as-groups: [";

    for (int i = 0; i < KUBECONFIG_GROUPS_MAX + 1; i++)
        strcat(text, "g,");
    strcat(text, "]}}]\n");
    refuse(text, "more than 32 entries");
}

static void write_file(const char *directory, const char *name, const char *text)
{
    char path[300];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

/* The first file that names something counts, missing ones do not matter, and paths are relative to the file
 * that has them. */
Test(kubeconfig, several_files)
{
    char directory[] = "/tmp/bruma-kubeconfig-XXXXXX", inner[300], list[1000];
    struct kube_access *a = NULL;

    cr_assert_not_null(mkdtemp(directory));
    snprintf(inner, sizeof(inner), "%s/inner", directory);
    cr_assert_eq(mkdir(inner, 0700), 0);
    write_file(directory, "one", "users: [{name: u, user: {tokenFile: inner/token}}]\n");
    write_file(inner, "two",
               "current-context: c\nusers: [{name: u, user: {token: two}}]\n"
               "clusters: [{name: k, cluster: {server: https://two, certificate-authority: ca}}]\n");
    write_file(inner, "three", CONTEXT "clusters: [{name: k, cluster: {server: https://three}}]\n");
    write_file(inner, "token", "from-file\n");
    write_file(inner, "ca", PEM);
    snprintf(list, sizeof(list), "%s/missing::%s/one:%s/two:%s/three", directory, directory, inner, inner);
    setenv("KUBECONFIG", list, 1);
    cr_expect(kubeconfig_is_there(NULL));
    cr_assert_eq(kubeconfig_load(NULL, NULL, &a, error), 0, "%s", error);
    cr_expect_str_eq(a->server, "https://two");
    cr_expect_str_eq(a->ca, PEM);
    cr_expect_str_eq(a->token, "from-file");
    kube_access_free(&a);
    setenv("KUBECONFIG", "/nowhere/a:/nowhere/b", 1);
    cr_expect(!kubeconfig_is_there(NULL));
    cr_expect_eq(kubeconfig_load(NULL, NULL, &a, error), -ENOENT);
    cr_expect_eq(kubeconfig_load("/nowhere/a", NULL, &a, error), -ENOENT);
    cr_expect_eq(kubeconfig_load(directory, NULL, &a, error), -EIO);
    snprintf(list, sizeof(list), "rm -r %s", directory);
    cr_expect_eq(system(list), 0);
}
