/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/control_plane.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/control_plane/control_files.h"
#include "agent/control_plane/grpc_server.h"
#include "lib/cleanup.h"
#include "lib/file.h"
#include "lib/proto/ca.pb-c.h"
#include "lib/tls_policy.h"
#include "lib/wall.h"

#define LOG_SCOPE "control"
#include "lib/log.h"

#define TOKEN_BYTES  32u
#define TOKEN_MAX    4096u
#define RENEW_MS     (24u * 3600 * 1000) /* the certificate of our own port is good for 30 days */
#define REQUEST_MAX  (64u * 1024)        /* of a certificate request, with all around it */
#define IDENTITY_KEY "ImpersonatedIdentity"

struct control_plane {
    struct loop *loop;
    char directory[480], token_path[512], address[ENDPOINT_TEXT_LEN];
    struct ca *ca;
    struct xds_server *xds;
    SSL_CTX *tls;
    struct grpc_server *server;
    struct loop_timer renew;
    struct wall_clock wall;
    control_plane_allows_fn allows;
    void *data;
};

/* ---- who may talk to us ---- */

static int make_token(const struct control_plane *plane)
{
    uint8_t bytes[TOKEN_BYTES];
    char text[2 * TOKEN_BYTES + 1];
    struct stat st;
    int r;

    if (stat(plane->token_path, &st) == 0 && st.st_size > 0)
        return 0;
    if (RAND_bytes(bytes, sizeof(bytes)) != 1)
        return -EIO;
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    r = control_file_write(plane->token_path, text, strlen(text), 0600);
    OPENSSL_cleanse(text, sizeof(text));
    return r;
}

/* Read anew each time, so that a token can be replaced. */
static enum grpc_status authenticate(const struct control_plane *plane, struct grpc_request *request,
                                     const char **text)
{
    static const char scheme[] = "Bearer ";
    const char *header = grpc_request_header(request, "authorization");
    _cleanup_free_ char *token = NULL;
    size_t len, given;
    bool good;
    int r;

    *text = "no bearer token; it is in RUN_DIR/control/token";
    if (!header || strncmp(header, scheme, sizeof(scheme) - 1) != 0)
        return GRPC_UNAUTHENTICATED;
    r = file_read(AT_FDCWD, plane->token_path, 0, TOKEN_MAX, &token, &len);
    while (r == 0 && len && (token[len - 1] == '\n' || token[len - 1] == ' '))
        len--;
    if (r < 0 || !len) {
        log_error_errno(r < 0 ? r : -ENODATA, "the token cannot be read\tpath=%s", plane->token_path);
        *text = "the control plane has no token";
        return GRPC_UNAUTHENTICATED;
    }
    header += sizeof(scheme) - 1;
    given = strlen(header);
    good = given == len && CRYPTO_memcmp(header, token, len) == 0;
    OPENSSL_cleanse(token, len);
    if (good)
        return GRPC_OK;
    *text = "wrong token";
    log_warn("a client with a wrong token was refused");
    return GRPC_UNAUTHENTICATED;
}

/* ---- the CA call ---- */

static const char *impersonated(const Istio__V1__Auth__IstioCertificateRequest *q)
{
    for (size_t i = 0; q->metadata && i < q->metadata->n_fields; i++) {
        const Google__Protobuf__Struct__FieldsEntry *f = q->metadata->fields[i];

        if (!strcmp(f->key, IDENTITY_KEY) && f->value &&
            f->value->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE)
            return f->value->string_value;
    }
    return NULL;
}

static enum grpc_status certify(struct control_plane *plane,
                                const Istio__V1__Auth__IstioCertificateRequest *q, const char *identity,
                                uint8_t **ret, size_t *ret_len, char *text, size_t text_size)
{
    Istio__V1__Auth__IstioCertificateResponse response = ISTIO__V1__AUTH__ISTIO_CERTIFICATE_RESPONSE__INIT;
    _cleanup_free_ char *leaf = NULL;
    char *chain[2];
    uint8_t *bytes;
    time_t now = time(NULL);
    int r;

    /* Nobody would take a leaf of a root that has ended; a failure was logged. */
    (void)ca_renew(plane->ca, now);
    r = ca_sign(plane->ca, q->csr, strlen(q->csr), identity, q->validity_duration, now, &leaf, text,
                text_size);
    if (r == -EINVAL)
        return GRPC_INVALID_ARGUMENT;
    if (r < 0) {
        snprintf(text, text_size, "the certificate could not be made");
        return GRPC_INTERNAL;
    }
    chain[0] = leaf;
    chain[1] = (char *)ca_root_pem(plane->ca);
    response.cert_chain = chain;
    response.n_cert_chain = array_size(chain);
    bytes = malloc(istio__v1__auth__istio_certificate_response__get_packed_size(&response));
    if (!bytes) {
        snprintf(text, text_size, "out of memory");
        return GRPC_INTERNAL;
    }
    *ret_len = istio__v1__auth__istio_certificate_response__pack(&response, bytes);
    *ret = bytes;
    return GRPC_OK;
}

static enum grpc_status authorize(struct control_plane *plane,
                                  const Istio__V1__Auth__IstioCertificateRequest *q, uint8_t **ret,
                                  size_t *ret_len, char *text, size_t text_size)
{
    const char *identity = impersonated(q);
    struct spiffe spiffe;

    if (!identity) {
        snprintf(text, text_size, "metadata." IDENTITY_KEY " is missing: whom is the certificate for?");
        return GRPC_INVALID_ARGUMENT;
    }
    for (const char *p = identity; *p; p++) {
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f) {
            snprintf(text, text_size,
                     IDENTITY_KEY " contains characters that are not allowed in an identity");
            return GRPC_INVALID_ARGUMENT;
        }
    }
    if (spiffe_parse(identity, strlen(identity), &spiffe) < 0) {
        snprintf(text, text_size, "%.100s is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT",
                 identity);
        return GRPC_INVALID_ARGUMENT;
    }
    if (!plane->allows(plane->data, &spiffe, text, text_size))
        return GRPC_PERMISSION_DENIED;
    return certify(plane, q, identity, ret, ret_len, text, text_size);
}

enum grpc_status control_plane_sign(struct control_plane *plane, const uint8_t *message, size_t len,
                                    uint8_t **ret, size_t *ret_len, char *text, size_t text_size)
{
    Istio__V1__Auth__IstioCertificateRequest *q = NULL;
    enum grpc_status status;
    char quoted[600];

    text[0] = '\0';
    if (len <= REQUEST_MAX)
        q = istio__v1__auth__istio_certificate_request__unpack(NULL, len, message);
    if (!q) {
        snprintf(text, text_size, "%s",
                 len > REQUEST_MAX ? "a request of more than 65536 bytes"
                                   : "the request is not an IstioCertificateRequest");
        status = GRPC_INVALID_ARGUMENT;
    } else {
        const char *identity = impersonated(q);

        status = authorize(plane, q, ret, ret_len, text, text_size);
        log_quote(quoted, sizeof(quoted), identity ? identity : "");
        if (status == GRPC_OK)
            log_info("certificate\tidentity=%s", quoted);
        else
            log_warn("a certificate was refused\tidentity=%s error=\"%s\"", quoted, text);
        istio__v1__auth__istio_certificate_request__free_unpacked(q, NULL);
    }
    return status;
}

static enum grpc_status ca_begin(void *data, struct grpc_request *request, void **call_data,
                                 const char **text)
{
    *call_data = data;
    return authenticate(data, request, text);
}

static void ca_message(void *call_data, struct grpc_request *request, const uint8_t *message, size_t len)
{
    _cleanup_free_ uint8_t *response = NULL;
    size_t response_len = 0;
    char text[512];
    enum grpc_status status =
        control_plane_sign(call_data, message, len, &response, &response_len, text, sizeof(text));

    if (status == GRPC_OK && grpc_request_send(request, response, response_len) < 0) {
        status = GRPC_UNAVAILABLE;
        snprintf(text, sizeof(text), "the answer could not be sent");
    }
    grpc_request_end(request, status, text);
}

static void ca_end(void *call_data)
{
}

/* ---- xDS ---- */

static enum grpc_status xds_begin(void *data, struct grpc_request *request, void **call_data,
                                  const char **text)
{
    struct control_plane *plane = data;
    struct xds_stream *stream;
    enum grpc_status status = authenticate(plane, request, text);

    if (status != GRPC_OK)
        return status;
    if (xds_stream_open(plane->xds, request, &stream) < 0) {
        *text = "out of memory";
        return GRPC_UNAVAILABLE;
    }
    *call_data = stream;
    return GRPC_OK;
}

static void xds_message(void *call_data, struct grpc_request *request, const uint8_t *message, size_t len)
{
    xds_stream_message(call_data, message, len);
}

static void xds_end(void *call_data)
{
    xds_stream_close(call_data);
}

/* ---- the port ---- */

static const struct grpc_service services[] = {
    {XDS_PATH, xds_begin, xds_message, xds_end},
    {CA_PATH, ca_begin, ca_message, ca_end},
};

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                     unsigned in_len, void *data)
{
    static const unsigned char h2[] = {2, 'h', '2'};

    return SSL_select_next_proto((unsigned char **)out, out_len, h2, sizeof(h2), in, in_len) ==
                   OPENSSL_NPN_NEGOTIATED
               ? SSL_TLSEXT_ERR_OK
               : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* A failure was logged; what there is is good for weeks. */
static void renew(struct control_plane *plane)
{
    time_t now = time(NULL);

    (void)ca_renew(plane->ca, now);
    (void)ca_serve(plane->ca, plane->tls, now);
    loop_timer_set(plane->loop, &plane->renew, RENEW_MS);
}

static void on_renew(struct loop_timer *timer)
{
    renew(container_of(timer, struct control_plane, renew));
}

static void on_clock_set(void *data, int64_t milliseconds)
{
    log_info("the wall clock was set\tseconds=%lld", (long long)(milliseconds / 1000));
    renew(data);
}

static int open_port(struct control_plane *plane, const struct agent_settings *settings)
{
    struct endpoint endpoint = {.port = (uint16_t)settings->xds_port};
    int r;

    if (!endpoint.port)
        return 0;
    (void)addr_parse("127.0.0.1", &endpoint.addr);
    plane->tls = SSL_CTX_new(TLS_server_method());
    if (!plane->tls || tls_policy_apply(plane->tls) < 0) {
        ERR_clear_error();
        return log_error_errno(-ENOMEM, "no TLS for the control plane");
    }
    SSL_CTX_set_alpn_select_cb(plane->tls, select_h2, NULL);
    r = ca_serve(plane->ca, plane->tls, time(NULL));
    if (r < 0)
        return r;
    endpoint_format(&endpoint, plane->address);
    r = grpc_server_open(plane->loop, &endpoint, plane->tls, services, array_size(services), plane,
                         (unsigned)settings->server_connections,
                         (unsigned)settings->server_connections_per_source, &plane->server);
    if (r < 0) {
        log_error_errno(r, "the control plane cannot listen\taddress=%s", plane->address);
        plane->address[0] = '\0';
        return r;
    }
    grpc_server_set_stall(plane->server, (unsigned)settings->stall_timeout);
    loop_timer_set(plane->loop, &plane->renew, RENEW_MS);
    wall_clock_follow(plane->loop, &plane->wall, on_clock_set, plane);
    log_info("control plane\taddress=%s token=%s root=%s/root-cert.pem", plane->address, plane->token_path,
             plane->directory);
    return 0;
}

static int make_directory(const char *path, mode_t mode)
{
    return mkdir(path, mode) < 0 && errno != EEXIST
               ? log_error_errno(errno, "the directory cannot be made\tpath=%s", path)
               : 0;
}

int control_plane_open(struct loop *loop, const struct agent_settings *settings,
                       control_plane_allows_fn allows, void *data, struct control_plane **ret)
{
    struct control_plane *plane = calloc(1, sizeof(*plane));
    int r;

    if (!plane)
        return -ENOMEM;
    plane->loop = loop;
    plane->allows = allows;
    plane->data = data;
    loop_timer_init(&plane->renew, on_renew);
    r = (size_t)snprintf(plane->directory, sizeof(plane->directory), "%s/control", settings->run_dir) <
                sizeof(plane->directory)
            ? 0
            : log_error_errno(-ENAMETOOLONG, "run-dir is too long");
    snprintf(plane->token_path, sizeof(plane->token_path), "%s/token", plane->directory);
    if (r == 0)
        r = make_directory(settings->run_dir, 0755);
    if (r == 0)
        r = make_directory(plane->directory, 0755);
    if (r == 0 && (r = make_token(plane)) < 0)
        log_error_errno(r, "the token cannot be written\tpath=%s", plane->token_path);
    if (r == 0)
        r = ca_open(plane->directory, settings->ca_key_file, settings->trust_domain, &plane->ca);
    if (r == 0)
        r = xds_server_new(loop, &xds_transport_grpc, &plane->xds);
    if (r == 0)
        r = open_port(plane, settings);
    if (r < 0) {
        control_plane_close(&plane);
        return r;
    }
    *ret = plane;
    return 0;
}

void control_plane_close(struct control_plane **plane)
{
    struct control_plane *p = *plane;

    if (!p)
        return;
    loop_timer_cancel(&p->renew);
    wall_clock_forget(&p->wall);
    if (p->server)
        grpc_server_close(&p->server); /* ends all streams */
    xds_server_free(&p->xds);
    ca_free(&p->ca);
    SSL_CTX_free(p->tls);
    free(p);
    *plane = NULL;
}

void control_plane_uninstall(const struct agent_settings *settings)
{
    static const char *const names[] = {"token", "root-cert.pem", "ca-key.pem"};
    char path[512];

    for (size_t i = 0; i < array_size(names); i++) {
        snprintf(path, sizeof(path), "%s/control/%s", settings->run_dir, names[i]);
        if (unlink(path) < 0 && errno != ENOENT)
            log_warn_errno(errno, "a file cannot be removed\tpath=%s", path);
    }
    snprintf(path, sizeof(path), "%s/control", settings->run_dir);
    if (rmdir(path) < 0 && errno != ENOENT)
        log_warn_errno(errno, "the directory cannot be removed\tpath=%s", path);
}

struct xds_server *control_plane_xds(struct control_plane *plane)
{
    return plane->xds;
}

const struct ca *control_plane_ca(const struct control_plane *plane)
{
    return plane->ca;
}

uint64_t control_plane_turned_away(const struct control_plane *plane)
{
    return plane->server ? grpc_server_turned_away(plane->server) : 0;
}

const char *control_plane_address(const struct control_plane *plane)
{
    return plane->address;
}

uint64_t control_plane_stalls(const struct control_plane *plane)
{
    return plane->server ? grpc_server_stalls(plane->server) : 0;
}
