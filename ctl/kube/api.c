/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/api.h"

#include <string.h>

#include "ctl/http_body.h"
#include "ctl/kube/base64.h"
#include "ctl/safe_text.h"
#include "lib/cleanup.h"

#define CONNECT_TIMEOUT 5000L               /* milliseconds */
#define TIMEOUT         30000L              /* milliseconds, of a whole answer */
#define PAGE            500                 /* objects */
#define BODY_MAX        (64u * 1024 * 1024) /* bytes of an answer, such as such a page */

/* ---- headers ---- */

/* False: no memory. Without one of them the API server would take the request for somebody else's. */
static bool add(struct curl_slist **list, const char *name, const char *value)
{
    _cleanup_free_ char *line = NULL;
    struct curl_slist *longer;

    if (!value)
        return true;
    if (asprintf(&line, "%s: %s", name, value) < 0) {
        line = NULL;
        return false;
    }
    longer = curl_slist_append(*list, line);
    if (longer)
        *list = longer;
    return longer != NULL;
}

static bool add_basic(struct curl_slist **list, const struct kube_access *a)
{
    _cleanup_free_ char *pair = NULL, *value = NULL;
    size_t len;

    if (!a->user)
        return true;
    if (asprintf(&pair, "%s:%s", a->user, a->password ? a->password : "") < 0) {
        pair = NULL;
        return false;
    }
    len = strlen(pair);
    value = malloc(4 * ((len + 2) / 3) + sizeof("Basic "));
    if (!value)
        return false;
    memcpy(value, "Basic ", 6);
    base64_encode((const unsigned char *)pair, len, value + 6);
    return add(list, "Authorization", value);
}

static bool add_token(struct curl_slist **list, const struct kube_access *a)
{
    _cleanup_free_ char *bearer = NULL;

    if (asprintf(&bearer, "Bearer %s", a->token) < 0) {
        bearer = NULL;
        return false;
    }
    return add(list, "Authorization", bearer);
}

/* NULL: no memory. */
static struct curl_slist *headers_of(const struct kube_access *a)
{
    struct curl_slist *list = NULL;
    bool done = add(&list, "User-Agent", "brumactl/" BRUMA_VERSION);

    done = done && (a->token ? add_token(&list, a) : add_basic(&list, a));
    done = done && add(&list, "Impersonate-User", a->as_user) && add(&list, "Impersonate-Uid", a->as_uid);
    for (size_t i = 0; done && a->as_groups[i]; i++)
        done = add(&list, "Impersonate-Group", a->as_groups[i]);
    if (done)
        return list;
    curl_slist_free_all(list);
    return NULL;
}

/* ---- handles ---- */

static CURLcode set_blob(CURL *curl, CURLoption option, char *text)
{
    struct curl_blob blob = {text, text ? strlen(text) : 0, CURL_BLOB_NOCOPY};

    return text ? curl_easy_setopt(curl, option, &blob) : CURLE_OK;
}

/* Who vouches for the server: the kubeconfig's CA, and nobody else, or those that the system trusts. */
static CURLcode set_ca(CURL *curl, char *ca)
{
    CURLcode code = ca ? curl_easy_setopt(curl, CURLOPT_CAPATH, NULL) : CURLE_OK;

    return code == CURLE_OK ? set_blob(curl, CURLOPT_CAINFO_BLOB, ca) : code;
}

static int on_progress(void *data, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct kube_access *access = data;

    (void)a, (void)b, (void)c, (void)d;
    return kube_access_is_stopped(access);
}

/* 0 or -ENOMEM: an option that libcurl does not take would be another way to the server than the one wanted.
 */
static int prepare(CURL *curl, const struct kube_access *a)
{
    CURLcode codes[5];

    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, a);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT);
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, a->insecure ? 0L : 2L);
    codes[0] = set_ca(curl, a->ca);
    codes[1] = set_blob(curl, CURLOPT_SSLCERT_BLOB, a->certificate);
    codes[2] = set_blob(curl, CURLOPT_SSLKEY_BLOB, a->key);
    codes[3] = a->proxy_url ? curl_easy_setopt(curl, CURLOPT_PROXY, a->proxy_url) : CURLE_OK;
    codes[4] = curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, a->insecure ? 0L : 1L);
    for (size_t i = 0; i < array_size(codes); i++)
        if (codes[i] != CURLE_OK)
            return codes[i] == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EOPNOTSUPP;
    return 0;
}

/* The URL names who the certificate has to be of; who is connected to is the server in any case. */
static int point(struct api_request *q, const struct kube_access *a, const char *path)
{
    const char *server = a->server + strlen("https://"), *prefix = server + strcspn(server, "/");
    int len = (int)(prefix - server);
    bool port = memchr(server, ':', (size_t)len) && prefix[-1] != ']' &&
                (*server != '[' || memchr(server, ']', (size_t)len));
    _cleanup_free_ char *url = NULL, *to = NULL;
    int r = 0;

    if (asprintf(&q->path, "%s%s", prefix, path) < 0)
        q->path = NULL;
    q->host = a->tls_server_name ? strdup(a->tls_server_name) : strndup(server, (size_t)len);
    if (!q->path || !q->host)
        return -ENOMEM;
    if (asprintf(&url, "https://%s%s", q->host, q->path) < 0) {
        url = NULL;
        return -ENOMEM;
    }
    if (a->tls_server_name) {
        if (asprintf(&to, "::%.*s%s", len, server, port ? "" : ":443") < 0) {
            to = NULL;
            return -ENOMEM;
        }
        q->connect_to = curl_slist_append(NULL, to);
        r = q->connect_to ? 0 : -ENOMEM;
        curl_easy_setopt(q->curl, CURLOPT_CONNECT_TO, q->connect_to);
    }
    curl_easy_setopt(q->curl, CURLOPT_URL, url);
    return r;
}

int api_open(const struct kube_access *access, const char *path, struct api_request *ret,
             char error[API_ERROR_MAX])
{
    struct api_request q = {.curl = curl_easy_init(), .headers = headers_of(access)};
    int r = q.curl && q.headers ? point(&q, access, path) : -ENOMEM;

    if (r == 0)
        r = prepare(q.curl, access);
    if (r < 0) {
        api_close(&q);
        snprintf(error, API_ERROR_MAX,
                 r == -ENOMEM
                     ? "out of memory"
                     : "this libcurl cannot reach the API server: it does not take a CA or certificate");
        return r;
    }
    *ret = q;
    return 0;
}

void api_close(struct api_request *request)
{
    curl_easy_cleanup(request->curl);
    curl_slist_free_all(request->headers);
    curl_slist_free_all(request->connect_to);
    free(request->host);
    free(request->path);
    *request = (struct api_request){};
}

/* ---- answers ---- */

int api_status(long status, const char *body, size_t len, char error[API_ERROR_MAX])
{
    cJSON *json;
    const char *message;

    if (status >= 200 && status < 300)
        return 0;
    json = body ? cJSON_ParseWithLength(body, len) : NULL;
    message = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "message"));
    if (message)
        snprintf(error, API_ERROR_MAX, "the API server: %.400s", message);
    else
        snprintf(error, API_ERROR_MAX, "the API server answers with status %ld%s%.*s", status,
                 len ? ": " : "", len > 300 ? 300 : (int)len, len ? body : "");
    cJSON_Delete(json);
    text_clean(error);
    return status == 401 || status == 403 ? -EACCES : status == 404 ? -ENOENT : -EPROTO;
}

int api_failed(const struct kube_access *access, CURLcode code, const char *detail, char error[API_ERROR_MAX])
{
    snprintf(error, API_ERROR_MAX, "no answer of the API server at %.200s: %.250s", access->server,
             code == CURLE_ABORTED_BY_CALLBACK ? "interrupted"
             : detail && *detail               ? detail
                                               : curl_easy_strerror(code));
    text_clean(error);
    return -EIO;
}

static int perform(struct api_request *q, const struct kube_access *access, struct received_body *body,
                   char error[API_ERROR_MAX])
{
    char detail[CURL_ERROR_SIZE] = "";
    CURLcode code;
    long status = 0;

    curl_easy_setopt(q->curl, CURLOPT_HTTPHEADER, q->headers);
    curl_easy_setopt(q->curl, CURLOPT_TIMEOUT_MS, TIMEOUT);
    curl_easy_setopt(q->curl, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(q->curl, CURLOPT_WRITEFUNCTION, http_body_take);
    curl_easy_setopt(q->curl, CURLOPT_WRITEDATA, body);
    curl_easy_setopt(q->curl, CURLOPT_ERRORBUFFER, detail);
    code = curl_easy_perform(q->curl);
    if (body->too_long) {
        snprintf(error, API_ERROR_MAX, "the API server at %.200s sends more than %zu MiB", access->server,
                 body->max >> 20);
        return -EPROTO;
    }
    if (code != CURLE_OK)
        return api_failed(access, code, detail, error);
    curl_easy_getinfo(q->curl, CURLINFO_RESPONSE_CODE, &status);
    return api_status(status, body->data, body->len, error);
}

int api_ask(const struct kube_access *access, const char *path, const char *post, cJSON **ret,
            char error[API_ERROR_MAX])
{
    struct received_body body = {.max = BODY_MAX};
    struct api_request q;
    int r = api_open(access, path, &q, error);

    if (r < 0)
        return r;
    if (post && !add(&q.headers, "Content-Type", "application/json")) {
        api_close(&q);
        snprintf(error, API_ERROR_MAX, "out of memory");
        return -ENOMEM;
    }
    if (post)
        curl_easy_setopt(q.curl, CURLOPT_POSTFIELDS, post);
    r = perform(&q, access, &body, error);
    api_close(&q);
    if (r == 0) {
        *ret = body.data ? cJSON_ParseWithLength(body.data, body.len) : NULL;
        if (!*ret) {
            snprintf(error, API_ERROR_MAX, "what %.200s answers is not JSON; is it an API server?",
                     access->server);
            r = -EPROTO;
        }
    }
    free(body.data);
    return r;
}

/* Moves the items of a page over; the token of the next page in *ret_next, or NULL. */
static int take_page(cJSON *page, cJSON *items, char **ret_next)
{
    cJSON *from = cJSON_GetObjectItemCaseSensitive(page, "items");
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(page, "metadata");
    const char *token = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(metadata, "continue"));

    while (from && from->child)
        cJSON_AddItemToArray(items, cJSON_DetachItemViaPointer(from, from->child));
    *ret_next = token && *token ? curl_easy_escape(NULL, token, 0) : NULL;
    return !cJSON_IsArray(from) ? -EPROTO : token && *token && !*ret_next ? -ENOMEM : 0;
}

int api_list(const struct kube_access *access, const char *path, cJSON **ret, char error[API_ERROR_MAX])
{
    cJSON *items = cJSON_CreateArray();
    char *next = NULL;
    int r = 0;

    do {
        _cleanup_free_ char *url = NULL;
        cJSON *page;

        if (asprintf(&url, "%s&limit=%d%s%s", path, PAGE, next ? "&continue=" : "", next ? next : "") < 0) {
            url = NULL;
            r = -ENOMEM;
        }
        curl_free(next);
        next = NULL;
        if (r == 0)
            r = api_ask(access, url, NULL, &page, error);
        if (r < 0)
            break;
        r = take_page(page, items, &next);
        cJSON_Delete(page);
        if (r < 0)
            snprintf(error, API_ERROR_MAX, r == -ENOMEM ? "out of memory" : "the API server sends no list");
    } while (r == 0 && next);
    curl_free(next);
    if (r == 0)
        *ret = items;
    else
        cJSON_Delete(items);
    return r;
}
