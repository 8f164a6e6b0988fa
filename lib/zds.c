/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/zds.h"

#include <errno.h>
#include <string.h>

#include "lib/proto/zds.pb-c.h"

typedef Istio__Workload__Zds__WorkloadRequest request_message;
typedef Istio__Workload__Zds__WorkloadResponse response_message;
typedef Istio__Workload__Zds__ZdsHello hello_message;

const char *zds_request_kind_name(enum zds_request_kind kind)
{
    static const char *const names[] = {
        [ZDS_ADD] = "add", [ZDS_KEEP] = "keep", [ZDS_DEL] = "del", [ZDS_SNAPSHOT_SENT] = "snapshot-sent"};

    return names[kind];
}

static ssize_t pack(const ProtobufCMessage *message, uint8_t *buf)
{
    if (protobuf_c_message_get_packed_size(message) > ZDS_MESSAGE_MAX)
        return -EMSGSIZE;
    return (ssize_t)protobuf_c_message_pack(message, buf);
}

/* Bytes of the UTF-8 character at p, 0 if there is none. Texts end with NUL, so nothing behind it is read. */
static size_t character(const unsigned char *p)
{
    static const struct {
        unsigned char mask, lead;
        unsigned minimum;
    } forms[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};

    for (size_t n = 0; n < sizeof(forms) / sizeof(forms[0]); n++) {
        unsigned code = p[0] & (unsigned char)~forms[n].mask;

        if ((p[0] & forms[n].mask) != forms[n].lead)
            continue;
        for (size_t i = 1; i <= n; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return 0;
            code = code << 6 | (p[i] & 0x3f);
        }
        return code >= forms[n].minimum && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? n + 1 : 0;
    }
    return 0;
}

/* These texts are names: of pods, namespaces, accounts. They end up in logs, quoted, and in identities. */
static bool is_name(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t n;

    for (; *p; p += n) {
        n = character(p);
        if (!n || *p < ' ' || *p == 0x7f || *p == '"' || *p == '\\')
            return false;
    }
    return true;
}

/* ---- requests ---- */

ssize_t zds_request_encode(const struct zds_request *request, uint8_t *buf)
{
    request_message m = ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__INIT;
    Istio__Workload__Zds__AddWorkload add = ISTIO__WORKLOAD__ZDS__ADD_WORKLOAD__INIT;
    Istio__Workload__Zds__WorkloadInfo info = ISTIO__WORKLOAD__ZDS__WORKLOAD_INFO__INIT;
    Istio__Workload__Zds__KeepWorkload keep = ISTIO__WORKLOAD__ZDS__KEEP_WORKLOAD__INIT;
    Istio__Workload__Zds__DelWorkload del = ISTIO__WORKLOAD__ZDS__DEL_WORKLOAD__INIT;
    Istio__Workload__Zds__SnapshotSent sent = ISTIO__WORKLOAD__ZDS__SNAPSHOT_SENT__INIT;

    switch (request->kind) {
    case ZDS_ADD:
        add.uid = (char *)request->uid;
        if (request->has_info) {
            info.name = (char *)request->name;
            info.namespace_ = (char *)request->namespace;
            info.service_account = (char *)request->service_account;
            add.workload_info = &info;
        }
        m.payload_case = ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_ADD;
        m.add = &add;
        break;
    case ZDS_KEEP:
        keep.uid = (char *)request->uid;
        m.payload_case = ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_KEEP;
        m.keep = &keep;
        break;
    case ZDS_DEL:
        del.uid = (char *)request->uid;
        m.payload_case = ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_DEL;
        m.del = &del;
        break;
    case ZDS_SNAPSHOT_SENT:
        m.payload_case = ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_SNAPSHOT_SENT;
        m.snapshot_sent = &sent;
        break;
    }
    return pack(&m.base, buf);
}

static int take_payload(const request_message *m, struct zds_request *ret)
{
    const Istio__Workload__Zds__WorkloadInfo *info;

    switch (m->payload_case) {
    case ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_ADD:
        ret->kind = ZDS_ADD;
        ret->uid = m->add->uid;
        info = m->add->workload_info;
        if (!info)
            break;
        ret->has_info = true;
        ret->name = info->name;
        ret->namespace = info->namespace_;
        ret->service_account = info->service_account;
        if (!is_name(ret->name) || !is_name(ret->namespace) || !is_name(ret->service_account))
            return -EBADMSG;
        break;
    case ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_KEEP:
        ret->kind = ZDS_KEEP;
        ret->uid = m->keep->uid;
        break;
    case ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_DEL:
        ret->kind = ZDS_DEL;
        ret->uid = m->del->uid;
        break;
    case ISTIO__WORKLOAD__ZDS__WORKLOAD_REQUEST__PAYLOAD_SNAPSHOT_SENT:
        ret->kind = ZDS_SNAPSHOT_SENT;
        return 0;
    default: /* none, or one of a later version */
        return -EBADMSG;
    }
    return is_name(ret->uid) ? 0 : -EBADMSG;
}

int zds_request_decode(const void *data, size_t len, struct zds_request *ret)
{
    struct zds_request request = {};
    request_message *m;
    int r;

    if (len > ZDS_MESSAGE_MAX)
        return -EBADMSG;
    m = istio__workload__zds__workload_request__unpack(NULL, len, data);
    if (!m)
        return -EBADMSG;
    r = take_payload(m, &request);
    if (r < 0) {
        istio__workload__zds__workload_request__free_unpacked(m, NULL);
        return r;
    }
    request.owner = m;
    *ret = request;
    return 0;
}

void zds_request_clear(struct zds_request *request)
{
    if (request->owner)
        istio__workload__zds__workload_request__free_unpacked(request->owner, NULL);
    *request = (struct zds_request){};
}

/* ---- hello ---- */

ssize_t zds_hello_encode(uint8_t *buf)
{
    hello_message m = ISTIO__WORKLOAD__ZDS__ZDS_HELLO__INIT;

    m.version = ISTIO__WORKLOAD__ZDS__VERSION__V1;
    return pack(&m.base, buf);
}

int zds_hello_decode(const void *data, size_t len, unsigned *ret_version)
{
    hello_message *m =
        len <= ZDS_MESSAGE_MAX ? istio__workload__zds__zds_hello__unpack(NULL, len, data) : NULL;
    unsigned version;

    if (!m)
        return -EBADMSG;
    version = (unsigned)m->version;
    istio__workload__zds__zds_hello__free_unpacked(m, NULL);
    if (version < ZDS_VERSION)
        return -EBADMSG;
    *ret_version = version;
    return 0;
}

/* ---- responses ---- */

/* Copies what fits, never half a character. */
static void copy_text(char *to, size_t size, const char *from)
{
    size_t len = 0, n;

    for (; from[len]; len += n) {
        n = character((const unsigned char *)from + len);
        if (!n || len + n >= size)
            break;
    }
    memcpy(to, from, len);
    to[len] = '\0';
}

ssize_t zds_response_encode(const char *error, uint8_t *buf)
{
    response_message m = ISTIO__WORKLOAD__ZDS__WORKLOAD_RESPONSE__INIT;
    Istio__Workload__Zds__Ack ack = ISTIO__WORKLOAD__ZDS__ACK__INIT;
    char text[ZDS_ERROR_MAX + 1] = "";

    if (error && *error) {
        copy_text(text, sizeof(text), error);
        /* An empty text would say the opposite. */
        ack.error = *text ? text : (char *)"refused";
    }
    m.payload_case = ISTIO__WORKLOAD__ZDS__WORKLOAD_RESPONSE__PAYLOAD_ACK;
    m.ack = &ack;
    return pack(&m.base, buf);
}

int zds_response_decode(const void *data, size_t len, char *ret_error, size_t size)
{
    response_message *m =
        len <= ZDS_MESSAGE_MAX ? istio__workload__zds__workload_response__unpack(NULL, len, data) : NULL;
    int r = -EBADMSG;

    if (!m)
        return r;
    if (m->payload_case == ISTIO__WORKLOAD__ZDS__WORKLOAD_RESPONSE__PAYLOAD_ACK) {
        copy_text(ret_error, size, m->ack->error);
        /* Stock proxies may send a stack trace. A text that is cut to nothing is still a refusal. */
        for (char *p = ret_error; *p; p++) {
            if ((unsigned char)*p < ' ' || *p == 0x7f)
                *p = ' ';
        }
        if (*m->ack->error && !*ret_error && size > 1)
            memcpy(ret_error, "?", 2);
        r = 0;
    }
    istio__workload__zds__workload_response__free_unpacked(m, NULL);
    return r;
}
