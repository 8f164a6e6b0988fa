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
#include <unistd.h>

#include "bpf/lookup.skel.h"
#include "bruma/maps.h"
#include "bruma/mesh.h"
#include "lib/addr.h"

#define COOKIE 4711
#define LO     BRUMA_LOOPBACK_IFINDEX
#define ETH0   7

static const __u64 pod_cookie = COOKIE;
static struct lookup_bpf *instances[3]; /* ingress_ifindex 0, LO, ETH0: a constant of the program */
static __u64 listener_cookies[BRUMA_LISTENER_COUNT];
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
    if (shared) {
        must(bpf_map__reuse_fd(s->maps.pods, bpf_map__fd(shared->maps.pods)) == 0, "pods");
        must(bpf_map__reuse_fd(s->maps.pod_counters, bpf_map__fd(shared->maps.pod_counters)) == 0,
             "pod_counters");
        must(bpf_map__reuse_fd(s->maps.failures, bpf_map__fd(shared->maps.failures)) == 0, "failures");
        must(bpf_map__reuse_fd(s->maps.probe_tuples, bpf_map__fd(shared->maps.probe_tuples)) == 0,
             "probe_tuples");
        must(bpf_map__reuse_fd(s->maps.listeners, bpf_map__fd(shared->maps.listeners)) == 0, "listeners");
    }
    must(lookup_bpf__load(s) == 0, "load");
    return s;
}

/* Dual stack. With SO_REUSEPORT the kernel would choose among the sockets of the port, which a test run
 * answers with EOPNOTSUPP: that this one is assigned at all shows that the program forbids the choice. */
static int listener(bool reuseport, __u64 *ret_cookie)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), one = reuseport;
    socklen_t len = sizeof(*ret_cookie);

    must(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0 &&
             bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0 && listen(fd, 1) == 0 &&
             getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret_cookie, &len) == 0,
         "listener");
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
    struct bruma_pod pod = {.addresses = {address("10.9.1.10"), address("fd09::10")}, .flags = flags};

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

    for (int i = 0; i < 3; i++)
        instances[i] = load(devices[i], instances[0]);
    for (__u32 slot = 0; slot < BRUMA_LISTENER_COUNT; slot++)
        set_listener(slot, listener(slot == BRUMA_LISTENER_INBOUND, &listener_cookies[slot]));
    for (size_t i = 0; i < 2; i++) {
        set_counters();
        pod_in_the_mesh(&families[i]);
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
