/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/direct/node_site.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/seqpacket.h"
#include "proxy/state/rcu.h"
#include "tests/unit/proxy/mesh_samples.h"

#define PATIENCE 20000 /* milliseconds */

struct node_site site;

/* ---- maps ---- */

static int bpf(int command, union bpf_attr *attr)
{
    long r = syscall(SYS_bpf, command, attr, sizeof(*attr));

    return r < 0 ? -errno : (int)r;
}

static int new_map(unsigned type, size_t key, size_t value, unsigned entries, unsigned flags)
{
    union bpf_attr attr = {.map_type = type,
                           .key_size = (__u32)key,
                           .value_size = (__u32)value,
                           .max_entries = entries,
                           .map_flags = flags};

    return bpf(BPF_MAP_CREATE, &attr);
}

static int new_hash(size_t key, size_t value, unsigned entries)
{
    return new_map(BPF_MAP_TYPE_HASH, key, value, entries, BPF_F_NO_PREALLOC);
}

void site_new_maps(int ret[BRUMA_NODE_FD_COUNT])
{
    ret[BRUMA_NODE_FD_CONTROL] =
        new_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct bruma_node_control), 1, BPF_F_MMAPABLE);
    ret[BRUMA_NODE_FD_PLACES] =
        new_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct bruma_node_place), BRUMA_NODE_PLACES, BPF_F_MMAPABLE);
    ret[BRUMA_NODE_FD_DEVICES] = new_hash(8, sizeof(struct bruma_node_device), 64);
    ret[BRUMA_NODE_FD_VERDICTS] =
        new_hash(sizeof(struct bruma_node_key), sizeof(struct bruma_node_verdict), BRUMA_MAX_NODE_VERDICTS);
    ret[BRUMA_NODE_FD_PENDING] =
        new_hash(sizeof(struct bruma_node_key), sizeof(struct bruma_node_pending), BRUMA_MAX_NODE_VERDICTS);
    ret[BRUMA_NODE_FD_TUPLES] =
        new_hash(sizeof(struct bruma_tuple), sizeof(struct bruma_node_tuple), BRUMA_MAX_NODE_TUPLES);
}

void site_same_maps(const int maps[BRUMA_NODE_FD_COUNT], int ret[BRUMA_NODE_FD_COUNT])
{
    for (int i = 0; i < BRUMA_NODE_FD_COUNT; i++)
        ret[i] = fcntl(maps[i], F_DUPFD_CLOEXEC, 3);
}

static union bpf_attr element(int map, const void *key, const void *value)
{
    return (union bpf_attr){
        .map_fd = (__u32)map, .key = (__u64)(unsigned long)key, .value = (__u64)(unsigned long)value};
}

int site_put(int map, const void *key, const void *value)
{
    union bpf_attr attr = element(map, key, value);

    return bpf(BPF_MAP_UPDATE_ELEM, &attr);
}

int site_get(int map, const void *key, void *ret)
{
    union bpf_attr attr = element(map, key, ret);

    return bpf(BPF_MAP_LOOKUP_ELEM, &attr);
}

unsigned site_count(int map, size_t key_size)
{
    char keys[2][64];
    unsigned n = 0;

    cr_assert(key_size <= sizeof(keys[0]));
    for (;;) {
        union bpf_attr attr = element(map, n ? keys[n % 2] : NULL, keys[(n + 1) % 2]);

        if (bpf(BPF_MAP_GET_NEXT_KEY, &attr) < 0)
            return n;
        n++;
    }
}

/* ---- pods ---- */

void site_know(struct pod *pod)
{
    list_add_tail(&site.proxy.pods, &pod->node);
}

void site_forget(struct pod *pod)
{
    list_del(&pod->node);
}

static void init_pod(struct pod *pod, const char *name, uint64_t cookie, const char *address)
{
    struct bruma_node_device device = {.device = 5, .inner = 2};

    *pod = (struct pod){.proxy = &site.proxy,
                        .name = strdup(name),
                        .namespace = strdup("shop"),
                        .service_account = strdup(name),
                        .cookie = cookie,
                        .generation = 1,
                        .addresses_len = 1};
    cr_assert(addr_parse(address, &pod->addresses[0]) == 0);
    atomic_store(&pod->same_node, SAME_NODE_KERNEL);
    for (int i = 0; i < BRUMA_POD_FD_COUNT; i++)
        pod->fds[i] = -1;
    pod->fds[BRUMA_POD_FD_NETNS] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    site_know(pod);
    cr_assert(site_put(site.maps[BRUMA_NODE_FD_DEVICES], &cookie, &device) == 0);
}

static void end_pod(struct pod *pod)
{
    close(pod->fds[BRUMA_POD_FD_NETNS]);
    free(pod->name);
    free(pod->namespace);
    free(pod->service_account);
}

bool site_begin(void)
{
    site_new_maps(site.maps);
    if (site.maps[BRUMA_NODE_FD_TUPLES] < 0 || unshare(CLONE_NEWNET) < 0)
        return false;
    cr_assert(
        system("ip link set lo up && ip link add quiet type veth peer name silent && ip link set quiet up && "
               "ip addr add 10.9.0.1/24 dev quiet && ip addr add 10.9.0.9/24 dev quiet") == 0);
    reader_register();
    list_init(&site.proxy.pods);
    atomic_store(&site.proxy.same_node, SAME_NODE_KERNEL);
    site.proxy.state = sample_state();
    cr_assert(loop_new(&site.proxy.loop) == 0);
    cr_assert(node_verdicts_new(&site.proxy.node_verdicts) == 0);
    init_pod(&site.source, "web", SITE_SOURCE, "10.9.0.9");
    init_pod(&site.destination, "shop", SITE_DESTINATION, "10.9.0.1");
    WORKLOAD(site.proxy.state, .name = "web", .node = "node-a", .addresses = {"10.9.0.9"});
    WORKLOAD(site.proxy.state, .name = "shop", .node = "node-a", .addresses = {"10.9.0.1"});
    state_commit(site.proxy.state);
    return true;
}

void site_end(void)
{
    if (!site.proxy.loop)
        return;
    node_verdicts_free(&site.proxy.node_verdicts);
    loop_free(&site.proxy.loop);
    end_pod(&site.source);
    end_pod(&site.destination);
    state_free(&site.proxy.state);
    reader_unregister();
    close_fds(site.maps, BRUMA_NODE_FD_COUNT);
}

/* ---- connections ---- */

struct bruma_tuple site_tuple(const char *source, uint16_t port)
{
    struct bruma_tuple t = {.remote_port = port, .local_port = SITE_PORT};
    struct addr a;

    cr_assert(addr_parse(source, &a) == 0);
    memcpy(&t.remote_address, a.bytes, sizeof(a.bytes));
    memcpy(&t.local_address, site.destination.addresses[0].bytes, sizeof(a.bytes));
    return t;
}

/* Returns how many there are then. */
static int64_t count_tuple(uint64_t cookie, int64_t change)
{
    uint32_t at = bruma_node_place(cookie);
    struct bruma_node_place place = {};

    cr_assert(site_get(site.maps[BRUMA_NODE_FD_PLACES], &at, &place) == 0);
    place.tuples += change;
    if (change)
        cr_assert(site_put(site.maps[BRUMA_NODE_FD_PLACES], &at, &place) == 0);
    return place.tuples;
}

void site_register(const struct bruma_tuple *tuple, struct bruma_node_tuple value)
{
    struct bruma_node_control *control = node_verdicts_control(site.proxy.node_verdicts);

    value.source_cookie = value.source_cookie ? value.source_cookie : SITE_SOURCE;
    value.destination_cookie = value.destination_cookie ? value.destination_cookie : SITE_DESTINATION;
    value.socket_cookie = value.socket_cookie ? value.socket_cookie : 1;
    cr_assert(site_put(site.maps[BRUMA_NODE_FD_TUPLES], tuple, &value) == 0);
    if (control)
        control->tuples++;
    count_tuple(value.source_cookie, control ? 1 : 0);
}

int64_t site_tuples(uint64_t cookie)
{
    return count_tuple(cookie, 0);
}

bool site_has(const struct bruma_tuple *tuple)
{
    struct bruma_node_tuple value;

    return site_get(site.maps[BRUMA_NODE_FD_TUPLES], tuple, &value) == 0;
}

uint64_t site_ago(unsigned seconds)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ((uint64_t)ts.tv_sec - seconds) * 1000000000 + (uint64_t)ts.tv_nsec;
}

int site_listen(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(SITE_PORT)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    inet_pton(AF_INET, "10.9.0.1", &at.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    cr_assert(bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 64) == 0);
    return fd;
}

static uint16_t checksum(const void *data, size_t len)
{
    const uint8_t *bytes = data;
    uint32_t sum = 0;

    for (size_t i = 0; i < len; i += 2)
        sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

unsigned site_half_open_count(void)
{
    FILE *f = fopen("/proc/self/net/tcp", "re");
    char line[256];
    unsigned n = 0, state;

    cr_assert_not_null(f);
    while (fgets(line, sizeof(line), f))
        n += sscanf(line, " %*d: %*s %*s %x", &state) == 1 && state == TCP_SYN_RECV;
    fclose(f);
    return n;
}

void site_half_open(uint16_t port)
{
    struct {
        uint32_t source, destination;
        uint16_t zero, length;
        struct tcphdr tcp;
    } s = {.zero = htons(IPPROTO_TCP), .length = htons(sizeof(struct tcphdr))};
    struct {
        struct iphdr ip;
        struct tcphdr tcp;
    } packet = {.ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP}};
    struct sockaddr_in to = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    unsigned before = site_half_open_count();

    inet_pton(AF_INET, "10.9.0.77", &s.source);
    inet_pton(AF_INET, "10.9.0.1", &s.destination);
    s.tcp = (struct tcphdr){.source = htons(port), .dest = htons(SITE_PORT), .doff = 5, .syn = 1};
    s.tcp.seq = htonl(1000);
    s.tcp.window = htons(1000);
    s.tcp.check = checksum(&s, sizeof(s));
    packet.tcp = s.tcp;
    packet.ip.saddr = s.source;
    packet.ip.daddr = to.sin_addr.s_addr = s.destination;
    cr_assert(sendto(fd, &packet, sizeof(packet), 0, (struct sockaddr *)&to, sizeof(to)) == sizeof(packet));
    close(fd);
    cr_assert_eq(site_half_open_count(), before + 1);
}

/* ---- time ---- */

static struct {
    struct loop_timer timer;
    bool (*is_so)(void);
    uint64_t until;
    bool met;
} look;

static void on_look(struct loop_timer *timer)
{
    struct loop *loop = site.proxy.loop;

    if (!look.until)
        look.until = loop_now(loop) + PATIENCE;
    look.met = look.is_so();
    if (look.met || loop_now(loop) >= look.until)
        loop_stop(loop);
    else
        loop_timer_set(loop, timer, 1);
}

void site_until(bool (*is_so)(void), const char *what)
{
    look.is_so = is_so;
    look.until = 0;
    loop_timer_init(&look.timer, on_look);
    loop_timer_set(site.proxy.loop, &look.timer, 0);
    cr_assert(loop_run(site.proxy.loop) == 0);
    cr_assert(look.met, "not within %d ms: %s", PATIENCE, what);
}
