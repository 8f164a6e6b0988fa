/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/direct/direct_maps.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/map_number.h"
#include "lib/seqpacket.h"

static int call(enum bpf_cmd command, const struct direct_maps *maps, enum bruma_direct_fd map,
                const void *key, const void *other)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)maps->fds[map];
    attr.key = (uint64_t)(uintptr_t)key;
    attr.value = (uint64_t)(uintptr_t)other;
    return syscall(SYS_bpf, command, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

static int map_update(void *data, enum bruma_direct_fd map, const void *key, const void *value)
{
    return call(BPF_MAP_UPDATE_ELEM, data, map, key, value);
}

static int map_erase(void *data, enum bruma_direct_fd map, const void *key)
{
    return call(BPF_MAP_DELETE_ELEM, data, map, key, NULL);
}

static int map_find(void *data, enum bruma_direct_fd map, const void *key, void *ret_value)
{
    return call(BPF_MAP_LOOKUP_ELEM, data, map, key, ret_value);
}

static int map_next(void *data, enum bruma_direct_fd map, const void *key, void *ret_key)
{
    return call(BPF_MAP_GET_NEXT_KEY, data, map, key, ret_key);
}

void direct_maps_init(struct direct_maps *maps, const int fds[BRUMA_DIRECT_FD_COUNT])
{
    memcpy(maps->fds, fds, sizeof(maps->fds));
    maps->ops = (struct map_ops){
        .update = map_update, .erase = map_erase, .find = map_find, .next = map_next, .data = maps};
}

void direct_maps_close(struct direct_maps *maps)
{
    close_fds(maps->fds, BRUMA_DIRECT_FD_COUNT);
    for (int i = 0; i < BRUMA_DIRECT_FD_COUNT; i++)
        maps->fds[i] = -1;
}

bool direct_maps_same(const struct direct_maps *maps, const int fds[BRUMA_DIRECT_FD_COUNT])
{
    return same_maps(maps->fds, fds, BRUMA_DIRECT_FD_COUNT);
}

static size_t control_size(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (sizeof(struct bruma_direct_control) + page - 1) / page * page;
}

int direct_control_map(int fd, struct bruma_direct_control **ret)
{
    void *memory = mmap(NULL, control_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (memory == MAP_FAILED)
        return -errno;
    *ret = memory;
    return 0;
}

void direct_control_unmap(struct bruma_direct_control **control)
{
    if (*control)
        munmap(*control, control_size());
    *control = NULL;
}
