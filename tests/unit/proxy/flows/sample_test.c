/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says of sockets that live: of real ones, over loopback, in a namespace of the test's. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/netns.h"
#include "proxy/flows/sample.h"
#include "tests/unit/proxy/flows/flows_site.h"
#include "tests/unit/proxy/flows/kernel_ring.h"

static struct account a;
static struct kernel_ring ring;
static struct pod *pod;
static int home = -1;
static bool can;

static void setup(void)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int s;

    site_setup();
    log_set_filter("off");
    home = netns_open_own();
    can = geteuid() == 0 && unshare(CLONE_NEWNET) == 0 && kernel_ring_new(&ring);
    if (!can)
        cr_skip("needs root, and BPF");
    s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert(ioctl(s, SIOCSIFFLAGS, &lo) == 0);
    close(s);
    pod = site_pod_new(77, "cart", netns_open_own());
    memset(&a, 0, sizeof(a));
    a.state = site_proxy.state;
    a.random = 1;
    cr_assert(telemetry_new(site_proxy.loop, STDOUT_FILENO, false, &a.telemetry) == 0);
    cr_assert(flow_pods_new(&a.pods) == 0 && account_init(&a) == 0);
    cr_assert(flow_pods_add(a.pods, pod) == 0);
    cr_assert(netns_enter(home) == 0); /* where a reader is */
}

static void teardown(void)
{
    if (can) {
        account_clear(&a);
        flow_pods_free(&a.pods);
        telemetry_free(&a.telemetry);
        kernel_ring_close(&ring);
        pod_unref(pod);
    }
    site_teardown();
    close(home);
}

TestSuite(flow_sample, .init = setup, .fini = teardown);

struct pair {
    int client, server;
    uint64_t cookies[2];
};

static struct endpoint name_of(int fd, int (*get)(int, struct sockaddr *, socklen_t *))
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    struct endpoint e;

    cr_assert(get(fd, (struct sockaddr *)&sa, &len) == 0);
    cr_assert(endpoint_from_sockaddr((struct sockaddr *)&sa, &e) == 0);
    return e;
}

/* As the kernel would have told of both ends. */
static struct bruma_flow_event event_of(int fd, enum bruma_direct_way way, uint64_t cookie)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_OPENED, way, "10.9.9.9:80", 0);
    struct endpoint local = name_of(fd, getsockname), remote = name_of(fd, getpeername);

    memcpy(e.flow.tuple.local_address.bytes, local.addr.bytes, 16);
    memcpy(e.flow.tuple.remote_address.bytes, remote.addr.bytes, 16);
    e.flow.tuple.local_port = local.port;
    e.flow.tuple.remote_port = remote.port;
    e.flow.netns_cookie = 77;
    e.socket_cookie = cookie;
    return e;
}

/* device: to which the client is bound, or NULL. mapped: IPv4 by an IPv6 socket. */
static struct pair connect_pair(const char *address, const char *device, bool mapped)
{
    struct endpoint e = {};
    struct sockaddr_storage sa;
    struct pair p;
    struct bruma_flow_event event;
    int family, listener, r;
    socklen_t len = sizeof(sa);

    cr_assert(netns_enter(pod->fds[BRUMA_POD_FD_NETNS]) == 0);
    cr_assert(addr_parse(address, &e.addr) == 0);
    r = endpoint_to_sockaddr(&e, mapped ? AF_INET6 : AF_UNSPEC, &sa);
    cr_assert(r > 0);
    family = sa.ss_family;
    listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(bind(listener, (struct sockaddr *)&sa, (socklen_t)r) == 0 && listen(listener, 4) == 0);
    cr_assert(getsockname(listener, (struct sockaddr *)&sa, &len) == 0);
    p.client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (device)
        cr_assert(setsockopt(p.client, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device)) == 0);
    cr_assert(connect(p.client, (struct sockaddr *)&sa, len) == 0);
    p.server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    cr_assert(p.server >= 0);
    close(listener);
    cr_assert(socket_cookie(p.client, &p.cookies[0]) == 0 && socket_cookie(p.server, &p.cookies[1]) == 0);
    event = event_of(p.client, BRUMA_DIRECT_OUTSIDE, p.cookies[0]);
    account_event(&a, &event, sizeof(event));
    event = event_of(p.server, BRUMA_DIRECT_PASS, p.cookies[1]);
    account_event(&a, &event, sizeof(event));
    cr_assert(netns_enter(home) == 0);
    return p;
}

static void send_all(int fd, int to, size_t n)
{
    char buf[4096] = "";

    while (n) {
        ssize_t sent = send(fd, buf, n < sizeof(buf) ? n : sizeof(buf), 0);

        cr_assert(sent > 0);
        for (ssize_t got = 0; got < sent;) {
            ssize_t r = recv(to, buf, (size_t)(sent - got), 0);

            cr_assert(r > 0);
            got += r;
        }
        n -= (size_t)sent;
    }
}

/* Of what was acknowledged: that comes a moment later than the bytes are read. */
static void expect_bytes(const struct pair *p, unsigned long there, unsigned long back)
{
    const struct flow_record *client = account_find(&a, p->cookies[0]),
                             *server = account_find(&a, p->cookies[1]);

    cr_assert(client && server);
    for (int i = 0; i < 200; i++) {
        cr_assert(sample_all(&a, ring.flows, NULL) == 0);
        if (client->flow.received == there && client->flow.sent == back && server->flow.received == there &&
            server->flow.sent == back)
            return;
        usleep(10000);
    }
    cr_assert(false, "client %lu and %lu, server %lu and %lu, instead of %lu and %lu",
              (unsigned long)client->flow.received, (unsigned long)client->flow.sent,
              (unsigned long)server->flow.received, (unsigned long)server->flow.sent, there, back);
}

static void close_pair(struct pair *p)
{
    close(p->client);
    close(p->server);
}

static void carries(const char *address, const char *device, bool mapped)
{
    struct pair p = connect_pair(address, device, mapped);

    expect_bytes(&p, 0, 0);
    send_all(p.client, p.server, 1);
    expect_bytes(&p, 1, 0);
    send_all(p.server, p.client, 100000);
    expect_bytes(&p, 1, 100000);
    cr_expect(account_find(&a, p.cookies[0])->missed == 0);
    close_pair(&p);
}

Test(flow_sample, bytes_are_right_to_the_byte_while_it_lives)
{
    carries("127.0.0.1", NULL, false);
}

Test(flow_sample, the_same_by_ipv6)
{
    carries("::1", NULL, false);
}

Test(flow_sample, the_same_of_ipv4_by_an_ipv6_socket)
{
    carries("127.0.0.1", NULL, true);
}

Test(flow_sample, the_same_of_a_socket_that_is_bound_to_a_device)
{
    carries("127.0.0.1", "lo", false);
}

Test(flow_sample, a_half_that_is_closed_is_no_byte)
{
    struct pair p = connect_pair("127.0.0.1", NULL, false), q = connect_pair("127.0.0.1", NULL, false);
    char c;

    send_all(p.client, p.server, 10);
    cr_assert(shutdown(p.client, SHUT_WR) == 0 && recv(p.server, &c, 1, 0) == 0);
    send_all(p.server, p.client, 20);
    expect_bytes(&p, 10, 20);
    send_all(q.client, q.server, 30);
    cr_assert(shutdown(q.server, SHUT_WR) == 0 && recv(q.client, &c, 1, 0) == 0);
    expect_bytes(&q, 30, 0);
    close_pair(&p);
    close_pair(&q);
}

Test(flow_sample, many_at_once_each_with_its_own)
{
    struct pair pairs[150];

    for (size_t i = 0; i < array_size(pairs); i++) {
        pairs[i] = connect_pair("127.0.0.1", NULL, false);
        send_all(pairs[i].client, pairs[i].server, i + 1);
    }
    for (size_t i = 0; i < array_size(pairs); i++)
        expect_bytes(&pairs[i], i + 1, 0);
    for (size_t i = 0; i < array_size(pairs); i++)
        close_pair(&pairs[i]);
}

static void end_one(void *data)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, "10.9.9.9:80", 0);
    uint64_t **next = data;

    e.socket_cookie = *(*next)++;
    account_event(&a, &e, sizeof(e));
}

/* Events are read between the batches, and some are of those that were to be asked for. */
Test(flow_sample, those_that_end_meanwhile_are_not_asked_for)
{
    struct pair pairs[100];
    uint64_t cookies[100], *next = cookies;
    const struct sample_pause pause = {end_one, &next};

    for (size_t i = 0; i < array_size(pairs); i++) {
        pairs[i] = connect_pair("127.0.0.1", NULL, false);
        cookies[i] = pairs[i].cookies[0];
    }
    cr_assert(a.live == 200);
    cr_assert(sample_all(&a, ring.flows, &pause) == 0);
    cr_expect(next - cookies == 4, "%ld", (long)(next - cookies));
    cr_expect(a.live == 196);
    cr_assert(sample_all(&a, ring.flows, NULL) == 0);
    cr_expect(a.live == 196 && a.endless == 0);
    for (size_t i = 0; i < array_size(pairs); i++)
        close_pair(&pairs[i]);
}

/* Its number is another one: the same addresses are not the same connection. */
Test(flow_sample, another_socket_with_the_same_addresses_is_not_taken_for_it)
{
    struct pair p = connect_pair("127.0.0.1", NULL, false);
    struct bruma_flow_event e = event_of(p.client, BRUMA_DIRECT_OUTSIDE, 123456789);

    account_event(&a, &e, sizeof(e));
    send_all(p.client, p.server, 10);
    expect_bytes(&p, 10, 0);
    cr_assert(sample_all(&a, ring.flows, NULL) == 0);
    cr_expect(account_find(&a, 123456789) == NULL); /* neither the kernel nor the map had it, and twice */
    close_pair(&p);
}

/* While the map has it there will be an event of its end, however late. */
Test(flow_sample, one_that_the_map_still_has_has_not_ended)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, "10.9.9.9:80", 0);

    e.flow.netns_cookie = 77;
    kernel_ring_lives(&ring, FIRST_SOCKET, &e.flow);
    account_event(&a, &e, sizeof(e));
    for (int i = 0; i < 3; i++)
        cr_assert(sample_all(&a, ring.flows, NULL) == 0);
    cr_expect(account_find(&a, FIRST_SOCKET) != NULL);
    kernel_ring_ends(&ring, FIRST_SOCKET);
    cr_assert(sample_all(&a, ring.flows, NULL) == 0);
    cr_expect(account_find(&a, FIRST_SOCKET) != NULL);
    cr_assert(sample_all(&a, ring.flows, NULL) == 0);
    cr_expect(account_find(&a, FIRST_SOCKET) == NULL);
    cr_expect(a.endless == 1);
}

static void note(void *data, uint64_t socket_cookie, const struct bruma_flow *flow)
{
    bool *seen = data;

    cr_assert(socket_cookie < 5000 && flow->opened_nanoseconds == socket_cookie);
    seen[socket_cookie] = true;
}

Test(flow_sample, all_that_the_map_has_are_listed)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, "10.9.9.9:80", 0);
    static bool seen[5000];

    cr_expect(sample_list(ring.flows, note, seen) == 0);
    for (unsigned i = 0; i < 5000; i++) {
        e.flow.opened_nanoseconds = i;
        kernel_ring_lives(&ring, i, &e.flow);
    }
    cr_expect(sample_list(ring.flows, note, seen) == 0);
    for (unsigned i = 0; i < 5000; i++)
        cr_assert(seen[i], "%u", i);
    cr_expect(sample_list(-1, note, seen) == -EBADF);
}
