/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/flows/kernel_ring.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long bpf(int command, union bpf_attr *attr)
{
    return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int map(unsigned type, unsigned key, unsigned value, unsigned entries, unsigned flags)
{
    union bpf_attr attr = {
        .map_type = type, .key_size = key, .value_size = value, .max_entries = entries, .map_flags = flags};

    return (int)bpf(BPF_MAP_CREATE, &attr);
}

#define INSN(c, d, s, o, i) \
    ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV(d, s)      INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, i)      INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD(d, i)      INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define CALL(f)        INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define MAP_LOW(d, fd) INSN(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, 0, fd)
#define MAP_HIGH       INSN(0, 0, 0, 0, 0)
#define EVENT          ((int)sizeof(struct bruma_flow_event))
#define HEAD           14 /* of the frame that the program is given */
#define AT_POLLING     ((short)offsetof(struct bruma_direct_control, polling))
#define AT_LOST        ((short)offsetof(struct bruma_direct_control, lost_events))

/* The event is what follows the head of the packet. It wakes nobody if control says that it need not, and
 * counts what finds no room: 1 then. */
static int load(const struct kernel_ring *r)
{
    const struct bpf_insn code[] = {
        SET(BPF_REG_2, HEAD),
        MOV(BPF_REG_3, BPF_REG_10),
        ADD(BPF_REG_3, -EVENT),
        SET(BPF_REG_4, EVENT),
        CALL(BPF_FUNC_skb_load_bytes),
        INSN(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_0, 0, 22, 0),
        INSN(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -EVENT - 8, 0),
        MAP_LOW(BPF_REG_1, r->control),
        MAP_HIGH,
        MOV(BPF_REG_2, BPF_REG_10),
        ADD(BPF_REG_2, -EVENT - 8),
        CALL(BPF_FUNC_map_lookup_elem),
        INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 15, 0),
        MOV(BPF_REG_6, BPF_REG_0),
        INSN(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_4, BPF_REG_6, AT_POLLING, 0),
        INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_4, 0, 1, 0),
        SET(BPF_REG_4, BPF_RB_NO_WAKEUP),
        MAP_LOW(BPF_REG_1, r->events),
        MAP_HIGH,
        MOV(BPF_REG_2, BPF_REG_10),
        ADD(BPF_REG_2, -EVENT),
        SET(BPF_REG_3, EVENT),
        CALL(BPF_FUNC_ringbuf_output),
        INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 4, 0),
        SET(BPF_REG_1, 1),
        INSN(BPF_STX | BPF_ATOMIC | BPF_DW, BPF_REG_6, BPF_REG_1, AT_LOST, BPF_ADD),
        SET(BPF_REG_0, 1),
        INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        SET(BPF_REG_0, 0),
        INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };
    char log[8192] = "";
    union bpf_attr attr = {
        .prog_type = BPF_PROG_TYPE_SCHED_CLS,
        .insns = (__u64)(unsigned long)code,
        .insn_cnt = sizeof(code) / sizeof(code[0]),
        .license = (__u64)(unsigned long)"GPL",
        .log_level = 1,
        .log_buf = (__u64)(unsigned long)log,
        .log_size = sizeof(log),
    };
    long fd = bpf(BPF_PROG_LOAD, &attr);

    cr_expect(fd >= 0 || errno == EPERM, "%s", log);
    return (int)fd;
}

bool kernel_ring_new(struct kernel_ring *r)
{
    r->control = map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct bruma_direct_control), 1, BPF_F_MMAPABLE);
    r->flows = map(BPF_MAP_TYPE_HASH, 8, sizeof(struct bruma_flow), 16384, BPF_F_NO_PREALLOC);
    r->events = map(BPF_MAP_TYPE_RINGBUF, 0, 0, BRUMA_FLOW_RING, 0);
    r->program = r->control < 0 || r->flows < 0 || r->events < 0 ? -1 : load(r);
    if (r->program < 0)
        kernel_ring_close(r);
    return r->program >= 0;
}

void kernel_ring_close(struct kernel_ring *r)
{
    const int all[] = {r->control, r->flows, r->events, r->program};

    for (int i = 0; i < 4; i++) {
        if (all[i] >= 0)
            close(all[i]);
    }
}

bool kernel_ring_tell(const struct kernel_ring *r, const struct bruma_flow_event *event)
{
    char packet[HEAD + sizeof(*event)] = "";
    union bpf_attr attr = {.test = {.prog_fd = (__u32)r->program,
                                    .data_in = (__u64)(unsigned long)packet,
                                    .data_size_in = sizeof(packet)}};

    memcpy(packet + HEAD, event, sizeof(*event));
    cr_assert(bpf(BPF_PROG_TEST_RUN, &attr) == 0, "%s", strerror(errno));
    return attr.test.retval == 0;
}

static union bpf_attr element(int map, const void *key, void *value)
{
    return (union bpf_attr){
        .map_fd = (__u32)map, .key = (__u64)(unsigned long)key, .value = (__u64)(unsigned long)value};
}

void kernel_ring_lives(const struct kernel_ring *r, __u64 socket_cookie, const struct bruma_flow *flow)
{
    struct bruma_flow copy = *flow;
    union bpf_attr attr = element(r->flows, &socket_cookie, &copy);

    cr_assert(bpf(BPF_MAP_UPDATE_ELEM, &attr) == 0);
}

void kernel_ring_ends(const struct kernel_ring *r, __u64 socket_cookie)
{
    union bpf_attr attr = element(r->flows, &socket_cookie, NULL);

    cr_assert(bpf(BPF_MAP_DELETE_ELEM, &attr) == 0);
}

struct bruma_direct_control kernel_ring_control(const struct kernel_ring *r)
{
    struct bruma_direct_control control;
    __u32 key = 0;
    union bpf_attr attr = element(r->control, &key, &control);

    cr_assert(bpf(BPF_MAP_LOOKUP_ELEM, &attr) == 0);
    return control;
}
