/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "cni"
#include "cni/agent_client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bruma/mesh.h"
#include "bruma/protocol.h"
#include "cni/attach.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"

struct session {
    int fd;
    long deadline; /* milliseconds, CLOCK_MONOTONIC */
};

struct answer {
    json_t *message; /* owned */
    int fds[BRUMA_MESSAGE_FDS_MAX];
    size_t fds_len;
};

static int fail(struct cni_error *error, enum cni_code code, int e, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int fail(struct cni_error *error, enum cni_code code, int e, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    error->code = code;
    vsnprintf(error->message, sizeof(error->message), format, ap);
    va_end(ap);
    return e < 0 ? e : -e;
}

static long now_milliseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int left(const struct session *s)
{
    long n = s->deadline - now_milliseconds();

    return n < 1 ? 1 : (int)n;
}

static int unreachable(struct cni_error *error, int e, const char *path, const char *what)
{
    snprintf(error->details, sizeof(error->details), "%.200s", reason_check(BRUMA_REASON_AGENT_UNREACHABLE));
    error->unreachable = true;
    return fail(error, CNI_TRY_AGAIN, e, "%s: %s at %.120s: %s", reason_name(BRUMA_REASON_AGENT_UNREACHABLE),
                what, path, strerror(e < 0 ? -e : e));
}

static int session_open(const struct cni_request *q, struct session *s, struct cni_error *error)
{
    char path[256];

    s->deadline = now_milliseconds() + (long)(q->timeout_seconds * 1000);
    s->fd = -1;
    if (snprintf(path, sizeof(path), "%s/%s", q->run_dir, BRUMA_AGENT_SOCKET) >= (int)sizeof(path))
        return fail(error, CNI_INVALID_CONFIG, ENAMETOOLONG, "run_dir is too long");
    s->fd = seqpacket_connect(path, left(s), false);
    return s->fd < 0 ? unreachable(error, s->fd, path, "no agent") : 0;
}

static int send_message(struct session *s, json_t *message, const int *fds, size_t fds_len,
                        struct cni_error *error)
{
    _cleanup_free_ char *text = json_dumps(message, JSON_COMPACT);
    int r = -ENOMEM;

    if (text)
        r = strlen(text) > BRUMA_MESSAGE_MAX ? -EMSGSIZE
                                             : seqpacket_send(s->fd, text, strlen(text), fds, fds_len);
    json_decref(message);
    return r < 0 ? unreachable(error, r, BRUMA_AGENT_SOCKET, "the agent does not listen") : 0;
}

static void answer_clear(struct answer *a)
{
    json_decref(a->message);
    close_fds(a->fds, a->fds_len);
    memset(a, 0, sizeof(*a));
}

static const char *text_of(const json_t *message, const char *key)
{
    const char *text = json_string_value(json_object_get(message, key));

    return text ? text : "";
}

/* An error of the agent becomes one of ours: the reason's name first, so that it can be looked up. */
static int take_error(const json_t *message, struct cni_error *error)
{
    const char *reason = text_of(message, "reason");
    enum bruma_reason known = reason_from_name(reason);

    if (known != BRUMA_REASON_COUNT)
        snprintf(error->details, sizeof(error->details), "%.200s", reason_check(known));
    return fail(error, CNI_TRY_AGAIN, EAGAIN, "%.60s: %.180s",
                *reason ? reason : reason_name(BRUMA_REASON_INTERNAL), text_of(message, "error"));
}

static int receive(struct session *s, struct answer *ret, struct cni_error *error)
{
    _cleanup_free_ char *buf = malloc(BRUMA_MESSAGE_MAX + 1);
    struct answer a = {};
    json_error_t where;
    ssize_t n;

    if (!buf)
        return fail(error, CNI_IO_FAILURE, ENOMEM, "out of memory");
    n = seqpacket_receive_timeout(s->fd, buf, BRUMA_MESSAGE_MAX + 1, a.fds, BRUMA_MESSAGE_FDS_MAX, &a.fds_len,
                                  left(s));
    if (n <= 0)
        return unreachable(error, n ? (int)n : -ECONNRESET, BRUMA_AGENT_SOCKET, "no answer of the agent");
    a.message = json_loadb(buf, (size_t)n, 0, &where);
    if (!json_is_object(a.message)) {
        answer_clear(&a);
        return fail(error, CNI_TRY_AGAIN, EBADMSG, "%s: the agent's answer is not a JSON object",
                    reason_name(BRUMA_REASON_MESSAGE_INVALID));
    }
    if (!strcmp(text_of(a.message, "op"), "error")) {
        int r = take_error(a.message, error);

        answer_clear(&a);
        return r;
    }
    *ret = a;
    return 0;
}

static int expect_done(struct session *s, struct cni_error *error)
{
    struct answer a;
    int r = receive(s, &a, error);

    if (r < 0)
        return r;
    if (strcmp(text_of(a.message, "op"), "done") != 0)
        r = fail(error, CNI_TRY_AGAIN, EBADMSG, "%s: unexpected answer \"%.40s\" of the agent",
                 reason_name(BRUMA_REASON_MESSAGE_INVALID), text_of(a.message, "op"));
    answer_clear(&a);
    return r;
}

static json_t *new_message(const struct cni_request *q, const char *op)
{
    json_t *m = json_object();

    json_object_set_new(m, "op", json_string(op));
    json_object_set_new(m, "network", json_string(q->network));
    json_object_set_new(m, "containerId", json_string(q->container_id));
    json_object_set_new(m, "ifname", json_string(q->ifname));
    json_object_set_new(m, "netns", json_string(q->netns));
    json_object_set_new(m, "podName", json_string(q->pod_name));
    json_object_set_new(m, "podNamespace", json_string(q->pod_namespace));
    json_object_set_new(m, "podUid", json_string(q->pod_uid));
    return m;
}

static int open_netns(const struct cni_request *q, struct cni_error *error)
{
    int fd = netns_open(q->netns);

    if (fd < 0)
        return fail(error, CNI_BAD_ENVIRONMENT, fd, "%s: CNI_NETNS %.150s: %s",
                    reason_name(BRUMA_REASON_NETNS_UNUSABLE), q->netns, strerror(-fd));
    return fd;
}

/* The agent has prepared everything; the pod's program is attached here, and the agent looks whether it is.
 */
static int attach(struct session *s, const struct answer *decision, int netns, struct cni_error *error)
{
    const char *link = text_of(decision->message, "link");
    json_t *m = json_object();
    int r = decision->fds_len == 1 && *link ? attach_program(decision->fds[0], netns, link) : -EBADMSG;

    if (r < 0) {
        struct cni_error ignored;

        json_object_set_new(m, "op", json_string("cni-failed"));
        json_object_set_new(m, "reason", json_string(reason_name(BRUMA_REASON_ATTACH_FAILED)));
        json_object_set_new(m, "error", json_string(strerror(-r)));
        /* the agent rolls back, and answers when it has */
        if (send_message(s, m, NULL, 0, &ignored) == 0)
            expect_done(s, &ignored);
        return fail(error, CNI_TRY_AGAIN, r, "%s: %.150s: %s", reason_name(BRUMA_REASON_ATTACH_FAILED), link,
                    strerror(-r));
    }
    json_object_set_new(m, "op", json_string("cni-attached"));
    r = send_message(s, m, NULL, 0, error);
    return r < 0 ? r : expect_done(s, error);
}

static int add(const struct cni_request *q, int netns, struct cni_error *error)
{
    struct session s;
    int r = session_open(q, &s, error);
    _cleanup_fd_ __attribute__((unused)) int guard = s.fd;
    struct answer decision;
    const char *what;
    json_t *m;

    if (r < 0)
        return r;
    m = new_message(q, "cni-add");
    json_object_set_new(m, "ips", cni_request_addresses(q));
    r = send_message(&s, m, &netns, 1, error);
    if (r == 0)
        r = receive(&s, &decision, error);
    if (r < 0)
        return r;
    what = text_of(decision.message, "decision");
    if (!strcmp(what, "enrol"))
        r = attach(&s, &decision, netns, error);
    else if (strcmp(what, "pass") != 0)
        r = fail(error, CNI_TRY_AGAIN, EBADMSG, "%s: unknown decision \"%.40s\" of the agent",
                 reason_name(BRUMA_REASON_MESSAGE_INVALID), what);
    if (r == 0)
        log_debug("%s\tpod=\"%s/%s\"", what, q->pod_namespace, q->pod_name);
    answer_clear(&decision);
    return r;
}

int agent_add(const struct cni_request *q, struct cni_error *error)
{
    _cleanup_fd_ int netns = open_netns(q, error);

    return netns < 0 ? netns : add(q, netns, error);
}

static int ask(const struct cni_request *q, json_t *message, const int *fds, size_t fds_len,
               struct cni_error *error)
{
    struct session s;
    int r = session_open(q, &s, error);
    _cleanup_fd_ __attribute__((unused)) int guard = s.fd;

    if (r < 0) {
        json_decref(message);
        return r;
    }
    r = send_message(&s, message, fds, fds_len, error);
    return r < 0 ? r : expect_done(&s, error);
}

int agent_del(const struct cni_request *q, struct cni_error *error)
{
    return ask(q, new_message(q, "cni-del"), NULL, 0, error);
}

int agent_check(const struct cni_request *q, struct cni_error *error)
{
    _cleanup_fd_ int netns = open_netns(q, error);
    int r;

    if (netns < 0)
        return netns;
    r = ask(q, new_message(q, "cni-check"), &netns, 1, error);
    /* An agent that has answered has found something; one that has not is asked again later. */
    if (r == -EAGAIN)
        error->code = CNI_CAPTURE_BROKEN;
    return r;
}

int agent_gc(const struct cni_request *q, struct cni_error *error)
{
    json_t *m = new_message(q, "cni-gc"), *list = json_object_get(q->config, "cni.dev/valid-attachments");

    if (!list)
        list = json_object_get(q->config, "cni.dev/attachments"); /* an early draft's name */
    if (list && !json_is_array(list)) {
        json_decref(m);
        return fail(error, CNI_INVALID_CONFIG, EINVAL, "cni.dev/valid-attachments is not a list");
    }
    if (list)
        json_object_set(m, "attachments", list);
    else
        json_object_set_new(m, "attachments", json_array());
    return ask(q, m, NULL, 0, error);
}

int agent_status(const struct cni_request *q, struct cni_error *error)
{
    return ask(q, new_message(q, "cni-status"), NULL, 0, error);
}
