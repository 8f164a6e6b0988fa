/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program that registers the kubelet's probes, attached to the cgroup of the argument (empty, and
 * cgroup2), with a map that takes one probe and no more: its own forgets the oldest and is never full. The
 * second probe is counted as one that could not be registered, and is made all the same.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probes.skel.h"

#include "bruma/maps.h"

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(2);
}

static struct probes_bpf *load(void)
{
    struct probes_bpf *s = probes_bpf__open();
    struct bpf_map *map;

    must(s != NULL, "open");
    bpf_object__for_each_map(map, s->obj) bpf_map__set_pin_path(map, NULL);
    must(bpf_map__set_type(s->maps.probe_tuples, BPF_MAP_TYPE_HASH) == 0 &&
             bpf_map__set_max_entries(s->maps.probe_tuples, 1) == 0,
         "a map of one entry");
    must(probes_bpf__load(s) == 0, "load");
    return s;
}

/* On a port that the kernel chooses. */
static void listen_at_loopback(struct sockaddr_in *ret)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof(*ret);

    *ret = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    must(fd >= 0 && bind(fd, (struct sockaddr *)ret, len) == 0 && listen(fd, 8) == 0 &&
             getsockname(fd, (struct sockaddr *)ret, &len) == 0,
         "listener");
}

static void declare(const struct probes_bpf *s, const struct sockaddr_in *at)
{
    struct bruma_endpoint target = {.address.bytes = {[10] = 0xff, [11] = 0xff}, .port = ntohs(at->sin_port)};
    struct bruma_probe_target value = {.netns_cookie = 1};

    memcpy(target.address.bytes + 12, &at->sin_addr, 4);
    must(bpf_map_update_elem(bpf_map__fd(s->maps.probe_targets), &target, &value, BPF_ANY) == 0, "target");
}

static void enter(const char *cgroup)
{
    int directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int procs = openat(directory, "cgroup.procs", O_WRONLY | O_CLOEXEC);

    must(procs >= 0 && write(procs, "0", 1) == 1, cgroup);
}

static __u64 not_registered(const struct probes_bpf *s)
{
    int cpus = libbpf_num_possible_cpus();
    struct bruma_failure_count *each = calloc((size_t)cpus, sizeof(*each));
    enum bruma_reason reason = BRUMA_REASON_PROBE_NOT_REGISTERED;
    __u64 sum = 0;

    must(each != NULL, "memory");
    if (bpf_map_lookup_elem(bpf_map__fd(s->maps.failures), &reason, each) == 0) {
        for (int i = 0; i < cpus; i++)
            sum += each[i].count;
    }
    free(each);
    return sum;
}

int main(int argc, char **argv)
{
    struct probes_bpf *s = load();
    struct sockaddr_in at;
    int cgroup;

    must(argc == 2, "argument");
    cgroup = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(cgroup >= 0, argv[1]);
    listen_at_loopback(&at);
    declare(s, &at);
    s->links.probes = bpf_program__attach_cgroup(s->progs.probes, cgroup);
    must(s->links.probes != NULL, "attach");
    enter(argv[1]);
    for (int i = 0; i < 2; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        must(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0, "probe");
        printf("probe %d: %llu not registered\n", i + 1, (unsigned long long)not_registered(s));
    }
    probes_bpf__destroy(s);
    return 0;
}
