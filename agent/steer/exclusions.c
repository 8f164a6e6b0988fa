/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/steer/exclusions.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/steer/internal.h"
#include "lib/cleanup.h"

#define PREFIX_BITS 96 /* of the key, before the address */
#define ALL_FLAGS   (BRUMA_POD_EXCLUDES_OUTBOUND | BRUMA_POD_EXCLUDES_INBOUND | BRUMA_POD_SECOND_SET)
#define BOTH_SETS   2

/* Of one pod: a set, or both. All keys are collected first, as a walk does not survive what it deletes. */
static void remove_from(int map, size_t key_size, uint64_t cookie, uint32_t set,
                        void (*read)(const void *key, uint64_t *ret_cookie, uint32_t *ret_set))
{
    _cleanup_free_ char *keys = NULL;
    uint64_t key[8], previous[8];
    size_t len = 0, room = 0;
    bool first = true;

    while (len <= BRUMA_MAX_EXCLUSIONS && bpf_map_get_next_key(map, first ? NULL : previous, key) == 0) {
        uint64_t of;
        uint32_t in;

        first = false;
        memcpy(previous, key, key_size);
        read(key, &of, &in);
        if (of != cookie || (set != BOTH_SETS && in != set))
            continue;
        if (len == room) {
            char *grown = reallocarray(keys, room = room ? 2 * room : 64, key_size);

            if (!grown)
                break; /* what stays is of a set that does not count, and is overwritten or removed later */
            keys = grown;
        }
        memcpy(keys + len++ * key_size, key, key_size);
    }
    for (size_t i = 0; i < len; i++)
        bpf_map_delete_elem(map, keys + i * key_size);
}

static void read_range(const void *key, uint64_t *ret_cookie, uint32_t *ret_set)
{
    const struct bruma_range_key *k = key;

    *ret_cookie = k->netns_cookie;
    *ret_set = k->set;
}

static void read_port(const void *key, uint64_t *ret_cookie, uint32_t *ret_set)
{
    const struct bruma_port_key *k = key;

    *ret_cookie = k->netns_cookie;
    *ret_set = k->set;
}

static void remove_set(struct steer *s, uint64_t cookie, uint32_t set)
{
    remove_from(s->excluded_ranges_fd, sizeof(struct bruma_range_key), cookie, set, read_range);
    remove_from(s->excluded_ports_fd, sizeof(struct bruma_port_key), cookie, set, read_port);
}

static int write_range(struct steer *s, uint64_t cookie, uint32_t set, const struct steer_range *range)
{
    struct bruma_range_key key = {
        .prefix_length = PREFIX_BITS + range->cidr.length, .set = set, .netns_cookie = cookie};
    struct bruma_excluded_range value = {.exclusion = range->exclusion};

    memcpy(key.address.bytes, range->cidr.addr.bytes, sizeof(key.address.bytes));
    cidr_format(&range->cidr, value.range, sizeof(value.range));
    return bpf_map_update_elem(s->excluded_ranges_fd, &key, &value, BPF_ANY) < 0 ? -errno : 0;
}

static int write_port(struct steer *s, uint64_t cookie, uint32_t set, const struct steer_port *port)
{
    struct bruma_port_key key = {
        .netns_cookie = cookie, .set = set, .port = port->port, .inbound = port->inbound};
    struct bruma_excluded_port value = {.exclusion = port->exclusion};

    return bpf_map_update_elem(s->excluded_ports_fd, &key, &value, BPF_ANY) < 0 ? -errno : 0;
}

static int write_set(struct steer *s, uint64_t cookie, uint32_t set, const struct steer_exclusions *e,
                     uint32_t *ret_flags)
{
    struct bruma_exclusion_counters counters = {};
    uint32_t flags = set ? BRUMA_POD_SECOND_SET : 0;
    int r = 0;

    if (bpf_map_update_elem(s->exclusion_counters_fd, &cookie, &counters, BPF_NOEXIST) < 0 && errno != EEXIST)
        return -errno;
    for (size_t i = 0; i < e->ranges_len && r == 0; i++) {
        flags |= BRUMA_POD_EXCLUDES_OUTBOUND;
        r = write_range(s, cookie, set, &e->ranges[i]);
    }
    for (size_t i = 0; i < e->ports_len && r == 0; i++) {
        flags |= e->ports[i].inbound ? BRUMA_POD_EXCLUDES_INBOUND : BRUMA_POD_EXCLUDES_OUTBOUND;
        r = write_port(s, cookie, set, &e->ports[i]);
    }
    if (r == 0)
        *ret_flags = flags;
    return r;
}

int steer_exclusions_set(struct steer *s, uint64_t cookie, const struct steer_exclusions *e,
                         struct steer_error *error)
{
    bool none = !e || (!e->ranges_len && !e->ports_len);
    uint32_t flags = 0, set, before;
    struct bruma_pod entry;
    int r = steer_pod_entry(s, cookie, &entry);

    if (r < 0)
        return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, r, "the pod has no entry");
    before = entry.flags & ALL_FLAGS;
    set = before & BRUMA_POD_SECOND_SET ? 0 : 1;
    if (!none) {
        remove_set(s, cookie, set); /* what an agent has left that was interrupted */
        r = write_set(s, cookie, set, e, &flags);
        if (r < 0) {
            remove_set(s, cookie, set);
            return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, r, "what the pod excludes from capture");
        }
    }
    entry.flags = (entry.flags & ~(__u32)ALL_FLAGS) | flags;
    if (bpf_map_update_elem(s->pods_fd, &cookie, &entry, BPF_EXIST) < 0)
        return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, errno, "cannot write the pods map");
    if (none)
        remove_set(s, cookie, BOTH_SETS);
    else
        remove_set(s, cookie, !set);
    return 0;
}

bool steer_exclusions_active(struct steer *s, uint64_t cookie)
{
    struct bruma_pod entry;

    return steer_pod_entry(s, cookie, &entry) == 0 &&
           entry.flags & (BRUMA_POD_EXCLUDES_OUTBOUND | BRUMA_POD_EXCLUDES_INBOUND);
}

/* Who has no counters never had a set. */
void steer_exclusions_remove(struct steer *s, uint64_t cookie)
{
    if (bpf_map_delete_elem(s->exclusion_counters_fd, &cookie) == 0)
        remove_set(s, cookie, BOTH_SETS);
}

int steer_exclusion_counters(struct steer *s, uint64_t cookie, struct bruma_exclusion_counters *ret)
{
    return bpf_map_lookup_elem(s->exclusion_counters_fd, &cookie, ret) < 0 ? -errno : 0;
}
