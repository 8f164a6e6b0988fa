/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "dns"
#include "agent/enroll/dns_capture.h"

#include <string.h>
#include <unistd.h>

#include "agent/enroll/enroll_private.h"
#include "agent/enroll/source.h"
#include "lib/log.h"
#include "lib/reasons.h"

static void fail(struct pod *pod, const struct steer_error *error)
{
    if (pod->enrollment->dns_reason == error->reason)
        return;
    enrollment_of(pod)->dns_reason = error->reason;
    log_error("DNS queries of a pod are not captured; this is retried, and logged once\tpod=\"%s/%s\" "
              "reason=%s error=\"%s\"",
              pod->namespace, pod->name, reason_name(error->reason), error->text);
}

static void begin(struct agent *agent, struct pod *pod, const struct steer_pod *p)
{
    struct steer_error error = {0};
    int fd, r = steer_dns_open(pod->netns_fd, &fd, &error);

    if (r == 0) {
        r = steer_dns_start(agent->steer, p, fd, &error);
        if (r < 0)
            close(fd);
    }
    if (r < 0) {
        fail(pod, &error);
        return;
    }
    enrollment_of(pod)->dns_socket = fd;
    enrollment_of(pod)->dns_reason = BRUMA_REASON_NONE;
    proxies_pod_dns(agent->proxies, pod);
    log_info("DNS queries of a pod are captured\tpod=\"%s/%s\"", pod->namespace, pod->name);
}

/* The rule is what others can take away. */
static void check(struct agent *agent, struct pod *pod, const struct steer_pod *p)
{
    struct steer_error error = {0};

    if (steer_dns_verify(agent->steer, p, pod->enrollment->dns_socket) != 0)
        return; /* in place, or it cannot be told */
    if (steer_dns_start(agent->steer, p, pod->enrollment->dns_socket, &error) < 0) {
        fail(pod, &error);
        return;
    }
    enrollment_of(pod)->dns_reason = BRUMA_REASON_NONE;
    health_of(pod)->repairs[BRUMA_REASON_RULE_MISSING]++;
    agent->repairs[BRUMA_REASON_RULE_MISSING]++;
    log_warn("the capture of a pod's DNS queries was broken and is repaired\tpod=\"%s/%s\" reason=%s",
             pod->namespace, pod->name, reason_name(BRUMA_REASON_RULE_MISSING));
}

void dns_end(struct agent *agent, struct pod *pod)
{
    struct steer_error error = {0};
    struct steer_pod p;

    if (pod->netns_fd < 0 ||
        (pod->enrollment->dns_socket < 0 && !steer_dns_started(agent->steer, pod->cookie)))
        return;
    enroll_describe(agent, pod, &p);
    enroll_note(pod, "ending the capture of DNS queries", steer_dns_stop(agent->steer, &p, &error), &error);
    if (pod->enrollment->dns_socket < 0)
        return;
    close(pod->enrollment->dns_socket);
    enrollment_of(pod)->dns_socket = -1;
    proxies_pod_dns(agent->proxies, pod);
}

const char *dns_capture_text(const struct agent *agent, const struct pod *pod)
{
    if (pod->enrollment->dns_socket >= 0)
        return "captured";
    if (pod->enrollment->state != POD_ENROLLED)
        return "as it is not in the mesh";
    if (!proxies_take_dns(agent->proxies))
        return "as its proxy does not answer them";
    if (source_dns_capture(agent, pod))
        return pod->enrollment->dns_reason ? reason_name(pod->enrollment->dns_reason) : "not yet";
    return agent->settings->dns_capture ? "by the pod's annotation ambient.istio.io/dns-capture"
                                        : "by AMBIENT_DNS_CAPTURE=false";
}

void dns_follow(struct agent *agent, struct pod *pod)
{
    struct steer_pod p;

    if (pod->netns_fd < 0 || pod->enrollment->awaits_listeners)
        return;
    if (pod->enrollment->state != POD_ENROLLED || !proxies_take_dns(agent->proxies) ||
        !source_dns_capture(agent, pod)) {
        dns_end(agent, pod);
        return;
    }
    enroll_describe(agent, pod, &p);
    if (pod->enrollment->dns_socket < 0)
        begin(agent, pod, &p);
    else
        check(agent, pod, &p);
}
