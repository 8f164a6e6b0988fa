/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the pod's sk_lookup program on made-up packets (BPF_PROG_TEST_RUN) and compares the verdict, the
 * socket that it chose and the counters that it moved. Needs root; nothing is pinned or attached. Prints a
 * line for each case; exit status 1 if one was not as it should be.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bpf/lookup.skel.h"
#include "bruma/direct.h"
#include "bruma/maps.h"
#include "bruma/mesh.h"
#include "lib/addr.h"

#define COOKIE 4711
#define LO     BRUMA_LOOPBACK_IFINDEX
#define ETH0   7

static const __u64 pod_cookie = COOKIE;
static struct lookup_bpf *instances[3]; /* ingress_ifindex 0, LO, ETH0: a constant of the program */
static __u64 listener_cookies[BRUMA_LISTENER_COUNT];
static __u16 listener_ports[BRUMA_LISTENER_COUNT];
static int failed, number;

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- the program and its world ---- */

static struct lookup_bpf *load(__u32 ifindex, struct lookup_bpf *shared)
{
    struct lookup_bpf *s = lookup_bpf__open();
    struct bpf_map *map;

    must(s != NULL, "open");
    bpf_object__for_each_map(map, s->obj) bpf_map__set_pin_path(map, NULL);
    s->rodata->netns_cookie = COOKIE;
    s->rodata->test_ifindex = ifindex;
    bpf_object__for_each_map(map, s->obj)
    {
        struct bpf_map *same = shared ? bpf_object__find_map_by_name(shared->obj, bpf_map__name(map)) : NULL;

        if (same && !bpf_map__is_internal(map))
            must(bpf_map__reuse_fd(map, bpf_map__fd(same)) == 0, bpf_map__name(map));
    }
    must(lookup_bpf__load(s) == 0, "load");
    return s;
}

/* Dual stack. With SO_REUSEPORT the kernel would choose among the sockets of the port, which a test run
 * answers with EOPNOTSUPP: that this one is assigned at all shows that the program forbids the choice. */
static int listener(bool reuseport, __u64 *ret_cookie, __u16 *ret_port)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), one = reuseport;
    socklen_t len = sizeof(*ret_cookie), any_len = sizeof(any);

    must(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0 &&
             bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0 && listen(fd, 1) == 0 &&
             getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret_cookie, &len) == 0 &&
             getsockname(fd, (struct sockaddr *)&any, &any_len) == 0,
         "listener");
    *ret_port = ntohs(any.sin6_port);
    return fd;
}

static void set_listener(__u32 slot, int fd)
{
    __u64 value = (__u64)fd;

    must(bpf_map_update_elem(bpf_map__fd(instances[0]->maps.listeners), &slot, &value, BPF_ANY) == 0, "slot");
}

static struct bruma_address address(const char *text)
{
    struct bruma_address a;
    struct addr parsed;

    must(addr_parse(text, &parsed) == 0, text);
    memcpy(a.bytes, parsed.bytes, sizeof(a.bytes));
    return a;
}

static void set_pod(__u32 flags)
{
    struct bruma_pod pod = {
        .addresses = {address("10.9.1.10"), address("fd09::10")}, .flags = flags, .generation = 3};

    must(bpf_map_update_elem(bpf_map__fd(instances[0]->maps.pods), &pod_cookie, &pod, BPF_ANY) == 0, "entry");
}

/* ---- one packet ---- */

struct packet {
    __u32 ifindex, protocol;
    const char *remote;
    __u16 remote_port;
    const char *local;
    __u16 local_port;
};

static void fill(struct bpf_sk_lookup *ctx, const struct packet *p)
{
    struct bruma_address remote = address(p->remote), local = address(p->local);
    bool v4 = !strchr(p->local, ':');

    memset(ctx, 0, sizeof(*ctx));
    ctx->family = v4 ? AF_INET : AF_INET6;
    ctx->protocol = p->protocol;
    ctx->remote_port = htons(p->remote_port);
    ctx->local_port = p->local_port;
    if (v4) {
        memcpy(&ctx->remote_ip4, remote.bytes + 12, 4);
        memcpy(&ctx->local_ip4, local.bytes + 12, 4);
    } else {
        memcpy(ctx->remote_ip6, remote.bytes, 16);
        memcpy(ctx->local_ip6, local.bytes, 16);
    }
}

static struct bruma_pod_counters counters(void)
{
    struct bruma_pod_counters c = {};

    if (bpf_map_lookup_elem(bpf_map__fd(instances[0]->maps.pod_counters), &pod_cookie, &c) < 0)
        memset(&c, 0, sizeof(c));
    return c;
}

static __u64 failures(enum bruma_reason reason)
{
    int cpus = libbpf_num_possible_cpus();
    struct bruma_failure_count *each = calloc((size_t)cpus, sizeof(*each));
    __u64 sum = 0;

    must(each != NULL, "memory");
    if (bpf_map_lookup_elem(bpf_map__fd(instances[0]->maps.failures), &reason, each) == 0) {
        for (int i = 0; i < cpus; i++)
            sum += each[i].count;
    }
    free(each);
    return sum;
}

#define NOBODY         -1
#define COUNTER(field) offsetof(struct bruma_pod_counters, field)
#define NO_COUNTER     sizeof(struct bruma_pod_counters)

/* verdict; listener that is chosen, or NOBODY; the one counter that moves; the one failure that is counted.
 */
static void expect(const char *what, const struct packet *p, int verdict, int chosen, size_t counter,
                   enum bruma_reason failure)
{
    struct bruma_pod_counters before = counters(), after;
    __u64 failed_before = failures(failure), wanted = chosen == NOBODY ? 0 : listener_cookies[chosen];
    struct bpf_sk_lookup ctx;
    LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx), .ctx_out = &ctx,
                .ctx_size_out = sizeof(ctx));
    struct lookup_bpf *s = instances[p->ifindex == LO ? 1 : p->ifindex ? 2 : 0];
    bool good;
    int r;

    fill(&ctx, p);
    r = bpf_prog_test_run_opts(bpf_program__fd(s->progs.lookup), &run);
    after = counters();
    good = r == 0 && (int)run.retval == verdict && ctx.cookie == wanted &&
           failures(failure) == failed_before + (failure != BRUMA_REASON_NONE);
    for (size_t at = 0; at < sizeof(before); at += sizeof(__u64)) {
        __u64 moved = *(__u64 *)((char *)&after + at) - *(__u64 *)((char *)&before + at);

        good = good && moved == (at == counter);
    }
    number++;
    failed += !good;
    printf("%s  %s: %s port %u -> %s port %u, device %u", good ? "ok    " : "FAILED", what, p->remote,
           p->remote_port, p->local, p->local_port, p->ifindex);
    if (!good)
        printf(" (run %d, verdict %u, socket %llu instead of %llu)", r, run.retval,
               (unsigned long long)ctx.cookie, (unsigned long long)wanted);
    puts("");
}

/* ---- the cases ---- */

struct family {
    const char *own, *other, *peer, *loopbacks[3];
};

static const struct family families[] = {
    {"10.9.1.10", "10.9.2.10", "10.9.3.30", {"127.0.0.1", "127.8.9.10", "0.0.0.0"}},
    {"fd09::10", "fd09::2:10", "fd09::3:30", {"::1", "::", "::1"}},
};

static void pod_in_the_mesh(const struct family *f)
{
    set_pod(BRUMA_POD_CAPTURE_OUTBOUND | BRUMA_POD_CAPTURE_INBOUND);
    expect("not TCP", &(struct packet){ETH0, IPPROTO_UDP, f->peer, 53, f->own, 53}, SK_PASS, NOBODY,
           NO_COUNTER, BRUMA_REASON_NONE);
    expect("no packet", &(struct packet){0, IPPROTO_TCP, f->peer, 4000, f->own, 80}, SK_PASS, NOBODY,
           NO_COUNTER, BRUMA_REASON_NONE);
    expect("captured", &(struct packet){LO, IPPROTO_TCP, f->own, 4000, f->other, 80}, SK_PASS,
           BRUMA_LISTENER_OUTBOUND, COUNTER(outbound_steered_lookups), BRUMA_REASON_NONE);
    expect("captured, to the tunnel port",
           &(struct packet){LO, IPPROTO_TCP, f->own, 4000, f->other, BRUMA_PORT_HBONE}, SK_PASS,
           BRUMA_LISTENER_OUTBOUND, COUNTER(outbound_steered_lookups), BRUMA_REASON_NONE);
    expect("delivered by the proxy", &(struct packet){LO, IPPROTO_TCP, f->peer, 4000, f->own, 80}, SK_PASS,
           NOBODY, COUNTER(inbound_passed_lookups), BRUMA_REASON_NONE);
    for (int i = 0; i < 3; i++)
        expect("loopback", &(struct packet){LO, IPPROTO_TCP, f->own, 4000, f->loopbacks[i], 80}, SK_PASS,
               NOBODY, COUNTER(inbound_passed_lookups), BRUMA_REASON_NONE);
    expect("tunnel", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 4000, f->own, BRUMA_PORT_HBONE}, SK_PASS,
           BRUMA_LISTENER_HBONE, COUNTER(inbound_hbone_lookups), BRUMA_REASON_NONE);
    for (int port = 1; port < 65536; port += 15006)
        expect("plaintext", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 4000, f->own, (__u16)port}, SK_PASS,
               BRUMA_LISTENER_INBOUND, COUNTER(inbound_plaintext_lookups), BRUMA_REASON_NONE);
    expect("plaintext to an address that nobody knows of",
           &(struct packet){ETH0, IPPROTO_TCP, f->peer, 4000, f->other, 80}, SK_PASS, BRUMA_LISTENER_INBOUND,
           COUNTER(inbound_plaintext_lookups), BRUMA_REASON_NONE);
    expect("to itself", &(struct packet){ETH0, IPPROTO_TCP, f->own, 4000, f->own, 80}, SK_PASS, NOBODY,
           COUNTER(inbound_passed_lookups), BRUMA_REASON_NONE);
    expect("a tunnel to itself", &(struct packet){ETH0, IPPROTO_TCP, f->own, 4000, f->own, BRUMA_PORT_HBONE},
           SK_PASS, BRUMA_LISTENER_HBONE, COUNTER(inbound_hbone_lookups), BRUMA_REASON_NONE);
}

/* ---- what the proxy has told the kernel ---- */

#define PROXY      4711
#define GENERATION 3

static int alive = -1;

static __u64 now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (__u64)ts.tv_sec * 1000000000 + (__u64)ts.tv_nsec;
}

static void set_control(__u64 proxy, __u32 ways, __u64 valid_until)
{
    struct bruma_direct_control control = {
        .proxy = proxy, .ways = ways, .valid_until_nanoseconds = valid_until};
    __u32 zero = 0;

    must(bpf_map_update_elem(bpf_map__fd(instances[0]->maps.direct_control), &zero, &control, BPF_ANY) == 0,
         "control");
}

static void set_direct_pod(__u64 proxy, __u32 generation, __u32 ways, __u32 why)
{
    struct bruma_direct_pod entry = {
        .proxy = proxy, .generation = generation, .ways = ways, .inbound_why = why, .inbound_changes = 1};

    must(bpf_map_update_elem(bpf_map__fd(instances[0]->maps.direct_pods), &pod_cookie, &entry, BPF_ANY) == 0,
         "direct_pods");
}

static void set_alive(bool lives)
{
    __u64 proxy = PROXY, value = (__u64)alive;
    int map = bpf_map__fd(instances[0]->maps.direct_proxies);

    must((lives ? bpf_map_update_elem(map, &proxy, &value, BPF_ANY) : bpf_map_delete_elem(map, &proxy)) == 0,
         "direct_proxies");
}

/* So many connections live, of all pods and of this one; 8 and 2 may. */
static void set_live(__u64 all, __u64 pod)
{
    const struct bruma_flow_count total = {.begun = all + 5, .ended = 5},
                                  own = {.begun = pod + 3, .ended = 3};
    const struct bruma_flow_limits limits = {.all = 8, .pod = 2};
    __u32 zero = 0;

    must(bpf_map_update_elem(bpf_map__fd(instances[0]->maps.flow_totals), &zero, &total, BPF_ANY) == 0 &&
             bpf_map_update_elem(bpf_map__fd(instances[0]->maps.flow_limits), &zero, &limits, BPF_ANY) == 0 &&
             bpf_map_update_elem(bpf_map__fd(instances[0]->maps.flow_counts), &pod_cookie, &own, BPF_ANY) ==
                 0,
         "flow_counts");
}

static void set_flows_full(__u64 when)
{
    __u32 zero = 0;

    must(bpf_map_update_elem(bpf_map__fd(instances[0]->maps.flows_full), &zero, &when, BPF_ANY) == 0,
         "flows_full");
}

static struct bruma_direct_counters direct_counters(void)
{
    struct bruma_direct_counters c = {};

    must(bpf_map_lookup_elem(bpf_map__fd(instances[0]->maps.direct_counters), &pod_cookie, &c) == 0,
         "direct_counters");
    return c;
}

/* As expect(), of plaintext; and the one counter of direct ways that moves. */
static void expect_direct(const char *what, const struct packet *p, int verdict, size_t direct)
{
    struct bruma_direct_counters before = direct_counters(), after;
    bool long_way = direct >= offsetof(struct bruma_direct_counters, outside_long_way);

    expect(what, p, verdict, long_way ? BRUMA_LISTENER_INBOUND : NOBODY,
           long_way ? COUNTER(inbound_plaintext_lookups) : NO_COUNTER, BRUMA_REASON_NONE);
    after = direct_counters();
    number++;
    for (size_t at = 0; at < sizeof(before); at += sizeof(__u64)) {
        __u64 moved = *(__u64 *)((char *)&after + at) - *(__u64 *)((char *)&before + at);

        if (moved == (at == direct))
            continue;
        failed++;
        printf("FAILED  %s: the counter at %zu has moved by %llu\n", what, at, (unsigned long long)moved);
        return;
    }
    printf("ok      %s: the counter\n", what);
}

#define DIRECT(field) offsetof(struct bruma_direct_counters, field)
#define LONG_WAY(why) (DIRECT(inbound_long_way) + BRUMA_LONG_WAY_##why * sizeof(__u64))

static void told_by_the_proxy(const struct family *f)
{
    const struct packet in = {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, 80},
                        elsewhere = {ETH0, IPPROTO_TCP, f->peer, 4000, f->other, 80},
                        tunnel = {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, BRUMA_PORT_HBONE},
                        out = {LO, IPPROTO_TCP, f->own, 4000, f->other, 80};
    const __u32 both = BRUMA_DIRECT_PASS | BRUMA_DIRECT_REFUSE;
    const __u16 own_ports[] = {BRUMA_PORT_OUTBOUND, BRUMA_PORT_PLAINTEXT, listener_ports[0],
                               listener_ports[1], listener_ports[2]};
    struct bruma_direct_counters none = {};
    __u64 later = now() + 3600000000000ull;

    must(bpf_map_update_elem(bpf_map__fd(instances[0]->maps.direct_counters), &pod_cookie, &none, BPF_ANY) ==
             0,
         "direct_counters");
    set_pod(BRUMA_POD_CAPTURE_OUTBOUND | BRUMA_POD_CAPTURE_INBOUND);
    set_live(0, 0);
    set_flows_full(0);
    set_control(0, 0, 0);
    expect_direct("nobody in charge", &in, SK_PASS, LONG_WAY(NO_PROXY));
    set_control(PROXY, both, later);
    expect_direct("the proxy has ended", &in, SK_PASS, LONG_WAY(PROXY_GONE));
    set_alive(true);
    expect_direct("not told of the pod", &in, SK_PASS, LONG_WAY(POD_UNKNOWN));
    set_direct_pod(PROXY, GENERATION, BRUMA_DIRECT_PASS, 0);
    expect_direct("pass", &in, SK_PASS, DIRECT(direct_inbound_lookups));
    expect_direct("another address of the pod", &elsewhere, SK_PASS, LONG_WAY(OTHER_ADDRESS));
    for (size_t i = 0; i < sizeof(own_ports) / sizeof(own_ports[0]); i++) {
        const struct packet p = {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, own_ports[i]};

        expect_direct("a port of the proxy", &p, SK_PASS, LONG_WAY(OTHER_ADDRESS));
    }
    expect("a tunnel", &tunnel, SK_PASS, BRUMA_LISTENER_HBONE, COUNTER(inbound_hbone_lookups),
           BRUMA_REASON_NONE);
    expect("captured", &out, SK_PASS, BRUMA_LISTENER_OUTBOUND, COUNTER(outbound_steered_lookups),
           BRUMA_REASON_NONE);
    set_live(7, 2);
    expect_direct("the pod has its share", &in, SK_PASS, LONG_WAY(POD_FLOWS_FULL));
    set_live(8, 1);
    expect_direct("all have theirs", &in, SK_PASS, LONG_WAY(FLOWS_FULL));
    set_live(7, 1);
    expect_direct("room for one", &in, SK_PASS, DIRECT(direct_inbound_lookups));
    set_flows_full(now());
    expect_direct("no room for flows", &in, SK_PASS, LONG_WAY(FLOWS_FULL));
    set_direct_pod(PROXY, GENERATION, BRUMA_DIRECT_REFUSE, 0);
    expect_direct("refuse", &in, SK_DROP, DIRECT(direct_inbound_refused_lookups));
    expect_direct("refuse, another address", &elsewhere, SK_PASS, LONG_WAY(OTHER_ADDRESS));
    expect("refuse, a tunnel", &tunnel, SK_PASS, BRUMA_LISTENER_HBONE, COUNTER(inbound_hbone_lookups),
           BRUMA_REASON_NONE);
    set_flows_full(0);
    set_direct_pod(PROXY, GENERATION, 0, BRUMA_LONG_WAY_POLICY_DEPENDS);
    expect_direct("policies depend", &in, SK_PASS, LONG_WAY(POLICY_DEPENDS));
    set_direct_pod(PROXY, GENERATION - 1, BRUMA_DIRECT_PASS, 0);
    expect_direct("of an earlier enrollment", &in, SK_PASS, LONG_WAY(POD_UNKNOWN));
    set_direct_pod(PROXY + 1, GENERATION, BRUMA_DIRECT_PASS, 0);
    expect_direct("of another proxy", &in, SK_PASS, LONG_WAY(POD_UNKNOWN));
    set_direct_pod(PROXY, GENERATION, BRUMA_DIRECT_PASS, 0);
    set_control(PROXY, BRUMA_DIRECT_OUTSIDE, later);
    expect_direct("switched off", &in, SK_PASS, LONG_WAY(SWITCHED_OFF));
    set_control(PROXY, both, now());
    expect_direct("the proxy is silent", &in, SK_PASS, LONG_WAY(PROXY_SILENT));
    set_direct_pod(PROXY, GENERATION, BRUMA_DIRECT_REFUSE, 0);
    expect_direct("refuse, but silent", &in, SK_PASS, LONG_WAY(PROXY_SILENT));
    set_control(PROXY, both, later);
    set_alive(false);
    expect_direct("refuse, but gone", &in, SK_PASS, LONG_WAY(PROXY_GONE));
    set_control(0, 0, 0);
    must(bpf_map_delete_elem(bpf_map__fd(instances[0]->maps.direct_pods), &pod_cookie) == 0, "direct_pods");
}

static int on_event(void *data, void *event, size_t size)
{
    const struct bruma_flow_event *e = event;
    unsigned *seen = data;

    *seen += size == sizeof(*e) && e->kind == BRUMA_FLOW_REFUSED && e->flow.netns_cookie == COOKIE &&
             e->flow.way == BRUMA_DIRECT_REFUSE && e->flow.tuple.local_port == 80 &&
             e->flow.tuple.remote_port == 4000;
    return 0;
}

/* As in bpf/direct.h, but for what the kernel keeps for itself. */
union refusals_value {
    struct {
        uint32_t lock, told, untold, unused;
        uint64_t since_nanoseconds;
    };
    uint8_t all[256];
};

/* Each refusal is counted, and not each of many has an event: the others are told with a later one. */
static void many_refusals(const struct family *f)
{
    struct lookup_bpf *s = instances[2];
    const struct packet in = {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, 80};
    struct ring_buffer *ring;
    struct bpf_sk_lookup ctx;
    LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx));
    union refusals_value refusals;
    unsigned seen = 0;
    bool good;

    set_alive(true);
    set_control(PROXY, BRUMA_DIRECT_REFUSE, now() + 3600000000000ull);
    set_direct_pod(PROXY, GENERATION, BRUMA_DIRECT_REFUSE, 0);
    ring = ring_buffer__new(bpf_map__fd(s->maps.flow_events), on_event, &seen, NULL);
    must(ring != NULL, "ring");
    ring_buffer__consume(ring); /* of the cases before */
    seen = 0;
    refusals = (union refusals_value){.since_nanoseconds = now() + 1000000000000ull}; /* it does not pass */
    must(bpf_map__value_size(s->maps.flow_refusals) <= sizeof(refusals) &&
             bpf_map_update_elem(bpf_map__fd(s->maps.flow_refusals), &pod_cookie, &refusals, BPF_ANY) == 0,
         "flow_refusals");
    for (int i = 0; i < 150; i++) {
        fill(&ctx, &in);
        must(bpf_prog_test_run_opts(bpf_program__fd(s->progs.lookup), &run) == 0 && run.retval == SK_DROP,
             "refused");
    }
    ring_buffer__consume(ring);
    must(bpf_map_lookup_elem(bpf_map__fd(s->maps.flow_refusals), &pod_cookie, &refusals) == 0, "untold");
    good = seen == 100 && refusals.untold == 50;
    number++;
    failed += !good;
    printf("%s  150 refusals: %u events, %u untold\n", good ? "ok    " : "FAILED", seen, refusals.untold);
    ring_buffer__free(ring);
    set_alive(false);
    set_control(0, 0, 0);
    must(bpf_map_delete_elem(bpf_map__fd(instances[0]->maps.direct_pods), &pod_cookie) == 0, "direct_pods");
}

static void probe(const struct family *f)
{
    struct bruma_tuple tuple = {.remote_address = address(f->peer),
                                .local_address = address(f->own),
                                .remote_port = 5000,
                                .local_port = 8080};
    struct bruma_probe_tuple value = {.registered_nanoseconds = 1};
    int map = bpf_map__fd(instances[0]->maps.probe_tuples);

    must(bpf_map_update_elem(map, &tuple, &value, BPF_ANY) == 0, "probe");
    expect("probe", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 5000, f->own, 8080}, SK_PASS, NOBODY,
           COUNTER(inbound_probe_lookups), BRUMA_REASON_NONE);
    expect("the probe's port alone", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 5001, f->own, 8080},
           SK_PASS, BRUMA_LISTENER_INBOUND, COUNTER(inbound_plaintext_lookups), BRUMA_REASON_NONE);
    expect("another port of the pod", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 5000, f->own, 8081},
           SK_PASS, BRUMA_LISTENER_INBOUND, COUNTER(inbound_plaintext_lookups), BRUMA_REASON_NONE);
    expect("the probe's tuple from lo", &(struct packet){LO, IPPROTO_TCP, f->own, 5000, f->peer, 8080},
           SK_PASS, BRUMA_LISTENER_OUTBOUND, COUNTER(outbound_steered_lookups), BRUMA_REASON_NONE);
    must(bpf_map_delete_elem(map, &tuple) == 0, "probe");
    expect("a probe that has ended", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 5000, f->own, 8080},
           SK_PASS, BRUMA_LISTENER_INBOUND, COUNTER(inbound_plaintext_lookups), BRUMA_REASON_NONE);
}

static void flags(const struct family *f)
{
    set_pod(BRUMA_POD_CAPTURE_OUTBOUND | BRUMA_POD_CAPTURE_INBOUND | BRUMA_POD_BYPASS_INBOUND);
    expect("bypass", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 4000, f->own, 80}, SK_PASS, NOBODY,
           COUNTER(inbound_passed_lookups), BRUMA_REASON_NONE);
    expect("bypass, tunnel", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 4000, f->own, BRUMA_PORT_HBONE},
           SK_PASS, BRUMA_LISTENER_HBONE, COUNTER(inbound_hbone_lookups), BRUMA_REASON_NONE);
    set_pod(0);
    expect("leaving", &(struct packet){ETH0, IPPROTO_TCP, f->peer, 4000, f->own, 80}, SK_PASS, NOBODY,
           NO_COUNTER, BRUMA_REASON_NONE);
    expect("leaving, still captured", &(struct packet){LO, IPPROTO_TCP, f->own, 4000, f->other, 80}, SK_PASS,
           BRUMA_LISTENER_OUTBOUND, COUNTER(outbound_steered_lookups), BRUMA_REASON_NONE);
}

static void broken(const struct family *f)
{
    const struct packet in = {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, 80},
                        out = {LO, IPPROTO_TCP, f->own, 4000, f->other, 80},
                        tunnel = {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, BRUMA_PORT_HBONE};

    must(bpf_map_delete_elem(bpf_map__fd(instances[0]->maps.pods), &pod_cookie) == 0, "entry");
    expect("no entry", &in, SK_DROP, NOBODY, COUNTER(dropped_lookups), BRUMA_REASON_POD_ENTRY_MISSING);
    expect("no entry", &tunnel, SK_DROP, NOBODY, COUNTER(dropped_lookups), BRUMA_REASON_POD_ENTRY_MISSING);
    expect("no entry", &out, SK_DROP, NOBODY, COUNTER(dropped_lookups), BRUMA_REASON_POD_ENTRY_MISSING);
}

/* A pod without counters is captured all the same; the failure is counted by its reason. */
static void no_listeners(const struct family *f)
{
    const struct packet packets[] = {{LO, IPPROTO_TCP, f->own, 4000, f->other, 80},
                                     {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, 80},
                                     {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, BRUMA_PORT_HBONE}};

    set_pod(BRUMA_POD_CAPTURE_OUTBOUND | BRUMA_POD_CAPTURE_INBOUND);
    must(bpf_map_delete_elem(bpf_map__fd(instances[0]->maps.pod_counters), &pod_cookie) == 0, "counters");
    for (size_t i = 0; i < sizeof(packets) / sizeof(packets[0]); i++)
        expect("no listener, no counters", &packets[i], SK_DROP, NOBODY, NO_COUNTER,
               BRUMA_REASON_LISTENER_MISSING);
}

/* The kernel gives no connection of IPv6 to a listener of IPv4 alone. */
static void unfit_listeners(void)
{
    const struct sockaddr_in any = {.sin_family = AF_INET};
    const struct family *f = &families[1];
    const struct packet out = {LO, IPPROTO_TCP, f->own, 4000, f->other, 80},
                        in = {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, 80},
                        tunnel = {ETH0, IPPROTO_TCP, f->peer, 4000, f->own, BRUMA_PORT_HBONE};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    must(fd >= 0 && bind(fd, (const struct sockaddr *)&any, sizeof(any)) == 0 && listen(fd, 1) == 0,
         "listener of IPv4");
    for (__u32 slot = 0; slot < BRUMA_LISTENER_COUNT; slot++)
        set_listener(slot, fd);
    set_pod(BRUMA_POD_CAPTURE_OUTBOUND | BRUMA_POD_CAPTURE_INBOUND);
    must(bpf_map_delete_elem(bpf_map__fd(instances[0]->maps.pod_counters), &pod_cookie) == 0, "counters");
    expect("unfit listener", &out, SK_DROP, NOBODY, NO_COUNTER, BRUMA_REASON_ASSIGN_FAILED);
    expect("unfit listener", &in, SK_DROP, NOBODY, NO_COUNTER, BRUMA_REASON_ASSIGN_FAILED);
    expect("unfit listener", &tunnel, SK_DROP, NOBODY, NO_COUNTER, BRUMA_REASON_ASSIGN_FAILED);
    for (__u32 slot = 0; slot < BRUMA_LISTENER_COUNT; slot++)
        must(bpf_map_delete_elem(bpf_map__fd(instances[0]->maps.listeners), &slot) == 0, "slot");
    close(fd);
}

static void set_counters(void)
{
    struct bruma_pod_counters none = {};

    must(bpf_map_update_elem(bpf_map__fd(instances[0]->maps.pod_counters), &pod_cookie, &none, BPF_ANY) == 0,
         "counters");
}

int main(void)
{
    static const __u32 devices[] = {0, LO, ETH0};
    __u64 alive_cookie;
    __u16 alive_port;

    for (int i = 0; i < 3; i++)
        instances[i] = load(devices[i], instances[0]);
    for (__u32 slot = 0; slot < BRUMA_LISTENER_COUNT; slot++)
        set_listener(
            slot, listener(slot == BRUMA_LISTENER_INBOUND, &listener_cookies[slot], &listener_ports[slot]));
    alive = listener(false, &alive_cookie, &alive_port);
    for (size_t i = 0; i < 2; i++) {
        set_counters();
        pod_in_the_mesh(&families[i]);
        told_by_the_proxy(&families[i]);
        many_refusals(&families[i]);
        probe(&families[i]);
        flags(&families[i]);
        broken(&families[i]);
    }
    for (__u32 slot = 0; slot < BRUMA_LISTENER_COUNT; slot++)
        must(bpf_map_delete_elem(bpf_map__fd(instances[0]->maps.listeners), &slot) == 0, "slot");
    for (size_t i = 0; i < 2; i++) {
        set_counters();
        no_listeners(&families[i]);
    }
    set_counters();
    unfit_listeners();
    printf("%d cases, %d failed\n", number, failed);
    for (int i = 2; i >= 0; i--)
        lookup_bpf__destroy(instances[i]);
    return failed != 0;
}
