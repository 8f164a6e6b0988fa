/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/direct_ways.h"

#include <errno.h>
#include <string.h>

#include "agent/api/ctl_finding.h"
#include "agent/steer/direct_view.h"
#include "agent/steer/exclusions.h"
#include "lib/long_ways.h"

#define INBOUND ((uint32_t)(BRUMA_DIRECT_PASS | BRUMA_DIRECT_REFUSE | BRUMA_DIRECT_BYPASS))

/* 0, or why nothing can be said of any pod; a static text then. */
static const char *look(const struct agent *agent, struct steer_direct_view *view)
{
    int r;

    if (proxies_open_listeners(agent->proxies))
        return "a stock ztunnel serves the pods, and knows no direct ways";
    r = steer_direct_look(agent->steer, view);
    return r == -EOPNOTSUPP ? long_way_what(BRUMA_LONG_WAY_NO_KERNEL)
           : r < 0          ? "the maps of direct ways cannot be read"
                            : NULL;
}

static enum bruma_long_way ask(const struct agent *agent, const struct steer_direct_view *view,
                               const struct pod *pod, uint32_t ways, uint32_t *ret_way)
{
    return steer_direct_ask(agent->steer, view, pod->cookie, pod->enrollment->generation, ways, ret_way);
}

static enum same_node same_node_of(const struct agent *agent, const struct pod *pod)
{
    enum same_node setting = SAME_NODE_HBONE;

    (void)same_node_parse(agent->settings->same_node, &setting);
    return same_node_longer(setting, pod->enrollment->direct.same_node);
}

/* ---- of a pod ---- */

static void explain_outside(const struct agent *agent, struct ctl_answer *c,
                            const struct steer_direct_view *view, const struct pod *pod)
{
    uint32_t way = 0;
    enum bruma_long_way why = ask(agent, view, pod, BRUMA_DIRECT_OUTSIDE, &way);

    ctl_finding(c, "direct outside", true, BRUMA_REASON_NONE,
                "connections to where the mesh knows nobody %s%s",
                why ? "go through the proxy, because " : "go directly", why ? long_way_what(why) : "");
}

static void explain_inbound(const struct agent *agent, struct ctl_answer *c,
                            const struct steer_direct_view *view, const struct pod *pod)
{
    uint32_t way = 0;
    enum bruma_long_way why = ask(agent, view, pod, INBOUND, &way);

    if (why)
        ctl_finding(c, "direct inbound", true, BRUMA_REASON_NONE,
                    "the proxy decides about each plaintext connection from outside, because %s",
                    long_way_what(why));
    else
        ctl_finding(c, "direct inbound", true, BRUMA_REASON_NONE, "plaintext from outside %s",
                    way & BRUMA_DIRECT_PASS
                        ? "goes directly to the application: the policies allow it whoever asks"
                    : way & BRUMA_DIRECT_REFUSE
                        ? "is refused in the kernel: the policies refuse it whoever asks"
                        : "goes directly to the application, since an annotation of the pod wants it so");
}

static void explain_same_node(const struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    static const char *const words[] = {
        [SAME_NODE_HBONE] = "through a tunnel, as others",
        [SAME_NODE_RELAY] = "by the proxy, without a tunnel",
        [SAME_NODE_KERNEL] = "in the kernel, where the proxy allows it",
    };
    enum same_node way = same_node_of(agent, pod);
    bool by_pod =
        way == pod->enrollment->direct.same_node && strcmp(agent->settings->same_node, same_node_name(way));

    ctl_finding(c, "same node", true, BRUMA_REASON_NONE, "pods of this node are reached %s (%s, by %s)%s",
                words[way], same_node_name(way), by_pod ? "an annotation of the pod" : "the agent's setting",
                way == SAME_NODE_HBONE ? "" : "; a pod that wants a longer way gets that");
}

/* "3 direct outside connections, ...; captured instead: in_mesh 7, ..." */
static void explain_counters(const struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    struct bruma_direct_counters n;
    char text[1000];
    size_t len = 0;

    if (steer_direct_counters(agent->steer, pod->cookie, &n) < 0)
        return;
#define COUNTER(name, what)                                                                       \
    if (len < sizeof(text))                                                                       \
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%llu " #name, len ? ", " : "", \
                                (unsigned long long)n.name);
    BRUMA_DIRECT_COUNTERS(COUNTER)
#undef COUNTER
    for (char *t = text; *t; t++)
        *t = *t == '_' ? ' ' : *t;
    for (int i = 1; i < BRUMA_LONG_WAY_COUNT; i++) {
        if (n.outside_long_way[i] && len < sizeof(text))
            len += (size_t)snprintf(text + len, sizeof(text) - len, "; captured: %s %llu",
                                    long_way_name((uint32_t)i), (unsigned long long)n.outside_long_way[i]);
    }
    for (int i = 1; i < BRUMA_LONG_WAY_COUNT; i++) {
        if (n.inbound_long_way[i] && len < sizeof(text))
            len += (size_t)snprintf(text + len, sizeof(text) - len, "; to the proxy: %s %llu",
                                    long_way_name((uint32_t)i), (unsigned long long)n.inbound_long_way[i]);
    }
    ctl_finding(c, "direct", true, BRUMA_REASON_NONE, "%s", text);
}

void direct_ways_explain(struct agent *agent, struct ctl_answer *c, const struct pod *pod)
{
    struct steer_direct_view view;
    const char *none = look(agent, &view);

    if (none) {
        ctl_finding(c, "direct", true, BRUMA_REASON_NONE, "all goes through the proxy: %s", none);
        return;
    }
    explain_outside(agent, c, &view, pod);
    explain_inbound(agent, c, &view, pod);
    explain_same_node(agent, c, pod);
    explain_counters(agent, c, pod);
}

/* ---- of a connection ---- */

static bool is_own(const struct pod *pod, const struct addr *addr)
{
    for (int i = 0; i < pod->addresses_len; i++) {
        if (addr_equal(&pod->addresses[i], addr))
            return true;
    }
    return addr_is_loopback(addr);
}

/* As the programs decide: the longest range, and the port. */
static bool is_excluded(const struct steer_exclusions *e, const struct endpoint *to)
{
    enum bruma_exclusion range = BRUMA_EXCLUSION_NONE, port = BRUMA_EXCLUSION_NONE;
    int longest = -1;

    for (size_t i = 0; e && i < e->ranges_len; i++) {
        if (e->ranges[i].cidr.length > longest && cidr_contains(&e->ranges[i].cidr, &to->addr)) {
            longest = e->ranges[i].cidr.length;
            range = e->ranges[i].exclusion;
        }
    }
    for (size_t i = 0; e && i < e->ports_len; i++) {
        if (!e->ports[i].inbound && e->ports[i].port == to->port)
            port = e->ports[i].exclusion;
    }
    return e && bruma_outbound_decide(range, port, 1, 0) == BRUMA_OUTBOUND_EXCLUDED;
}

/* Why it is not captured although it goes to somebody else, and is not a direct way either; NULL: it is. */
static const char *left_alone(const struct agent *agent, const struct pod *pod, const struct endpoint *to,
                              struct bruma_pod *ret)
{
    if (pod->enrollment->state == POD_OUTSIDE)
        return "the pod is not in the mesh";
    if (is_own(pod, &to->addr))
        return "it is the pod itself";
    if (steer_pod_entry(agent->steer, pod->cookie, ret) < 0)
        return "the pod is not captured now";
    if (!(ret->flags & BRUMA_POD_CAPTURE_OUTBOUND))
        return "the pod leaves the mesh";
    return is_excluded(pod->enrollment->exclusions, to) ? "an annotation of the pod excludes it" : NULL;
}

void direct_ways_explain_to(struct agent *agent, struct ctl_answer *c, const struct pod *pod,
                            const struct endpoint *to)
{
    struct bruma_pod entry;
    struct steer_direct_view view;
    const char *alone = left_alone(agent, pod, to, &entry), *none;
    enum bruma_long_way why = BRUMA_LONG_WAY_NONE;
    bool node;

    if (alone) {
        ctl_finding(c, "capture", true, BRUMA_REASON_NONE, "not captured, because %s", alone);
        return;
    }
    none = look(agent, &view);
    node = !none && steer_direct_ask_node(agent->steer, &view, pod->cookie, &entry, to, &why);
    if (node && !why) {
        ctl_finding(
            c, "capture", true, BRUMA_REASON_NONE,
            "not captured, because the proxy has allowed it between these pods of the node: it goes in "
            "the kernel, and is accounted for");
        return;
    }
    if (!node)
        why = none ? BRUMA_LONG_WAY_NONE
                   : steer_direct_ask_outside(agent->steer, &view, pod->cookie, &entry, to);
    if (!none && !why)
        ctl_finding(
            c, "capture", true, BRUMA_REASON_NONE,
            "not captured, because the proxy would pass it through as it is: it goes directly, and is "
            "accounted for");
    else
        ctl_finding(c, "capture", true, BRUMA_REASON_NONE, "captured: it goes through the proxy, because %s",
                    none ? none : long_way_what(why));
}

/* ---- of the node ---- */

void direct_ways_check(const struct agent *agent, struct ctl_answer *c)
{
    struct steer_direct_view view;
    const char *none = look(agent, &view);
    const struct bruma_direct_control *control = &view.control;
    uint64_t said;

    if (none) {
        ctl_finding(c, "direct ways", true, BRUMA_REASON_NONE, "none: %s", none);
        return;
    }
    ctl_finding(c, "direct ways", true, BRUMA_REASON_NONE, "outside %s, inbound %s, same node %s",
                agent->settings->direct_outside ? "on" : "off",
                agent->settings->direct_inbound ? "on" : "off", agent->settings->same_node);
    ctl_finding(c, "direct ways", true, BRUMA_REASON_NONE,
                "%llu direct connections live, of %llu that may, and %llu of one pod",
                (unsigned long long)view.connections, (unsigned long long)view.limits.all,
                (unsigned long long)view.limits.pod);
    if (!control->proxy) {
        ctl_finding(c, "direct ways", true, BRUMA_REASON_NONE, "none is taken: %s",
                    long_way_what(control->why ? control->why : BRUMA_LONG_WAY_NO_PROXY));
        return;
    }
    said = control->valid_until_nanoseconds - BRUMA_DIRECT_VALID_NANOSECONDS;
    if (!view.lives)
        ctl_finding(c, "direct ways", false, BRUMA_REASON_PROXY_NOT_CONNECTED, "none is taken: %s",
                    long_way_what(BRUMA_LONG_WAY_PROXY_GONE));
    else
        ctl_finding(c, "direct ways", view.now_nanoseconds < control->valid_until_nanoseconds,
                    BRUMA_REASON_NONE, "proxy %llu is in charge, and was last seen alive %llu ms ago%s%s",
                    (unsigned long long)control->proxy,
                    (unsigned long long)((view.now_nanoseconds - said) / 1000000), control->why ? "; " : "",
                    control->why ? long_way_what(control->why) : "");
    if (view.flows_full_nanoseconds)
        ctl_finding(c, "direct ways", true, BRUMA_REASON_NONE, "%llu s ago %s",
                    (unsigned long long)((view.now_nanoseconds - view.flows_full_nanoseconds) / 1000000000),
                    "the list of live direct connections was full");
    if (control->lost_events)
        ctl_finding(c, "direct ways", true, BRUMA_REASON_NONE,
                    "%llu events of direct connections found no room: their log lines are missing",
                    (unsigned long long)control->lost_events);
}

void direct_ways_report(const struct agent *agent, const struct pod *pod, cJSON *item)
{
    struct steer_direct_view view;
    uint32_t way = 0;
    enum bruma_long_way why;
    cJSON *o;

    if (pod->enrollment->state == POD_OUTSIDE || look(agent, &view))
        return;
    o = cJSON_AddObjectToObject(item, "direct");
    why = ask(agent, &view, pod, BRUMA_DIRECT_OUTSIDE, &way);
    cJSON_AddStringToObject(o, "outside", why ? long_way_name(why) : "direct");
    why = ask(agent, &view, pod, INBOUND, &way);
    cJSON_AddStringToObject(o, "inbound",
                            why                         ? long_way_name(why)
                            : way & BRUMA_DIRECT_PASS   ? "pass"
                            : way & BRUMA_DIRECT_REFUSE ? "refuse"
                                                        : "bypass");
    cJSON_AddNumberToObject(o, "connections", (double)steer_direct_live(agent->steer, pod->cookie));
    cJSON_AddStringToObject(o, "sameNode", same_node_name(same_node_of(agent, pod)));
}
