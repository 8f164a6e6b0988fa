/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/file.h"

#define FILE_MAX (1024 * 1024)

extern char **environ;

int server_address_parse(const char *text, struct server_address *ret)
{
    struct server_address a = {.port = BRUMA_PORT_XDS};
    const char *host, *colon, *end;
    size_t len;

    if (!strncmp(text, "http://", 7)) {
        a.plaintext = true;
        text += 7;
    } else if (!strncmp(text, "https://", 8)) {
        text += 8;
    }
    end = text + strcspn(text, "/");
    host = text;
    colon = memrchr(text, ':', (size_t)(end - text));
    if (*text == '[') {
        const char *bracket = memchr(text, ']', (size_t)(end - text));

        if (!bracket)
            return -EINVAL;
        host = text + 1;
        len = (size_t)(bracket - host);
        colon = bracket + 1 < end && bracket[1] == ':' ? bracket + 1 : NULL;
    } else {
        len = (size_t)((colon ? colon : end) - host);
    }
    if (!len || len >= sizeof(a.host))
        return -EINVAL;
    memcpy(a.host, host, len);
    if (colon) {
        char *rest;
        unsigned long port = strtoul(colon + 1, &rest, 10);

        if (rest != end || colon[1] < '0' || colon[1] > '9' || !port || port > 65535)
            return -EINVAL;
        a.port = (uint16_t)port;
    }
    *ret = a;
    return 0;
}

static int read_file(const char *path, size_t *ret_len, char **ret)
{
    return file_read(AT_FDCWD, path, 0, FILE_MAX, ret, ret_len);
}

static bool is_path(const char *setting)
{
    return *setting == '/' || !strncmp(setting, "./", 2) || access(setting, F_OK) == 0;
}

int roots_load(const char *setting, char **ret_pem)
{
    size_t len;
    int r;

    *ret_pem = NULL;
    if (!setting || !strcmp(setting, "SYSTEM"))
        return 0;
    if (strstr(setting, "-----BEGIN")) {
        *ret_pem = strdup(setting);
        return *ret_pem ? 0 : -ENOMEM;
    }
    r = read_file(setting, &len, ret_pem);
    if (r < 0 || !memchr(*ret_pem, '\0', len))
        return r;
    free(*ret_pem);
    *ret_pem = NULL;
    return -EBADMSG;
}

static int add(struct credential_headers *h, const char *name, const char *value)
{
    if (h->len == CREDENTIAL_HEADERS_MAX)
        return -E2BIG;
    h->headers[h->len++] = (struct grpc_header){name, value};
    return 0;
}

/* Names of environment variables cannot be HTTP/2 names as they stand: those are lower case. */
static int add_environment(struct credential_headers *h, const char *prefix)
{
    static char names[CREDENTIAL_HEADERS_MAX][64];
    size_t used = 0, prefix_len = strlen(prefix);

    for (char **e = environ; *e && used < CREDENTIAL_HEADERS_MAX; e++) {
        const char *equals = strchr(*e, '=');
        size_t n = equals ? (size_t)(equals - *e) - prefix_len : 0;

        if (strncmp(*e, prefix, prefix_len) != 0 || !equals || !n || n >= sizeof(names[0]))
            continue;
        for (size_t i = 0; i < n; i++) {
            char c = (*e)[prefix_len + i];

            names[used][i] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        }
        names[used][n] = '\0';
        if (add(h, names[used++], equals + 1) < 0)
            return -E2BIG;
    }
    return 0;
}

int credential_headers_load(const char *token, const char *token_file, const char *cluster_id,
                            const char *prefix, struct credential_headers *ret)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = 0;

    memset(ret, 0, sizeof(*ret));
    if (!token)
        token = token_file && access(token_file, F_OK) == 0 ? token_file : "";
    if (*token) {
        if (is_path(token))
            r = read_file(token, &len, &text);
        else
            text = strdup(token);
        if (r < 0)
            return r;
        if (!text)
            return -ENOMEM;
        /* A file that was written with an editor ends in a newline, which no header may hold. */
        text[strcspn(text, "\r\n")] = '\0';
        if (!*text)
            return -ENODATA;
        r = asprintf(&ret->authorization, "Bearer %s", text) < 0 ? -ENOMEM : 0;
        OPENSSL_cleanse(text, strlen(text));
        if (r < 0) {
            ret->authorization = NULL;
            return r;
        }
        r = add(ret, "authorization", ret->authorization);
        if (r == 0 && cluster_id && *cluster_id)
            r = add(ret, "clusterid", cluster_id);
    }
    if (r == 0)
        r = add_environment(ret, prefix);
    if (r < 0)
        credential_headers_free(ret);
    return r;
}

void credential_headers_free(struct credential_headers *h)
{
    if (h->authorization)
        OPENSSL_cleanse(h->authorization, strlen(h->authorization));
    free(h->authorization);
    memset(h, 0, sizeof(*h));
}
