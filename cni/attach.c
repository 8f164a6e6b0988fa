/* SPDX-License-Identifier: Apache-2.0 */
/* Two commands of bpf(2); a library for them would be most of the plugin's size. */
#include "cni/attach.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cleanup.h"

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
    long r = syscall(SYS_bpf, command, attr, sizeof(*attr));

    return r < 0 ? -errno : (int)r;
}

int attach_program(int program_fd, int netns_fd, const char *link_path)
{
    union bpf_attr create = {}, pin = {};
    _cleanup_fd_ int link = -1;
    int r;

    create.link_create.prog_fd = (uint32_t)program_fd;
    create.link_create.target_fd = (uint32_t)netns_fd;
    create.link_create.attach_type = BPF_SK_LOOKUP;
    link = bpf(BPF_LINK_CREATE, &create);
    if (link < 0)
        return link;
    pin.bpf_fd = (uint32_t)link;
    pin.pathname = (uint64_t)(uintptr_t)link_path;
    r = bpf(BPF_OBJ_PIN, &pin);
    if (r == -EEXIST) {
        /* of an attempt that died half-way: nobody else names a pin by this cookie */
        unlink(link_path);
        r = bpf(BPF_OBJ_PIN, &pin);
    }
    return r < 0 ? r : 0;
}
