# SPDX-License-Identifier: Apache-2.0
"""Programs of somebody else on the hooks that ours are on."""

import contextlib
import os

from support import kernel
from support.system import run, wait_for

# Somebody else's, which asks for callbacks of its own and counts them.
OTHER = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} seen SEC(".maps");
SEC("sockops") int other(struct bpf_sock_ops *ctx)
{
    __u32 zero = 0;
    __u64 *n = bpf_map_lookup_elem(&seen, &zero);
    if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
        bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
    else if (ctx->op == BPF_SOCK_OPS_RTT_CB && n)
        __sync_fetch_and_add(n, 1);
    return 1;
}
char LICENSE[] SEC("license") = "GPL";
"""

# Somebody else's, which takes away the callbacks that ours has asked for.
THIEF = OTHER.replace("TCP_CONNECT_CB", "ACTIVE_ESTABLISHED_CB").replace(
    "ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG", "0"
)

NOTHING = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("sockops") int nothing(struct bpf_sock_ops *ctx) { return 1; }
char LICENSE[] SEC("license") = "GPL";
"""


def load(mesh, code, pins):
    source, binary = f"{mesh.dir}/other.bpf.c", f"{mesh.dir}/other.bpf.o"
    with open(source, "w") as f:
        f.write(code)
    include = "/usr/include/" + run(["gcc", "-print-multiarch"]).stdout.strip()
    run(["clang", "-target", "bpf", "-g", "-O2", "-idirafter", include, "-c", source, "-o", binary])
    run(["bpftool", "prog", "loadall", binary, pins, "pinmaps", pins])


@contextlib.contextmanager
def others_program(mesh, code):
    """In a cgroup below the pods', whose name this is."""
    pins, child = f"{mesh.node.pin_dir}-other", f"{mesh.node.cgroup}/child"
    load(mesh, code, pins)
    os.mkdir(child)
    try:
        run(["bpftool", "cgroup", "attach", child, "sock_ops", "pinned", f"{pins}/other", "multi"])
        yield child
    finally:
        kernel.remove_pins(pins)
        wait_for(lambda: os.rmdir(child) is None, "the cgroup to be empty")
