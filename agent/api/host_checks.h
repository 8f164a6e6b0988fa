/* SPDX-License-Identifier: Apache-2.0 */
/* What is looked at of the machine itself: by `brumactl doctor`, and before an agent runs (`bruma-agent
 * --check`). */
#ifndef AGENT_API_HOST_CHECKS_H
#define AGENT_API_HOST_CHECKS_H

#include <bpf/bpf.h>

#include "agent/agent_settings.h"
#include "agent/api/ctl_answer.h"
#include "agent/steer/steer.h"

#define HOST_HOOKS 5

/* Hooks at the cgroup that Bruma's programs share with those of others. */
struct host_hook {
    enum bpf_attach_type type;
    const char *name;
};
extern const struct host_hook host_hooks[HOST_HOOKS];

/* "name(id)" of each program, ours and others', in buf. Returns how many there are, and adds those that are
 * not among own to *ret_others; or -errno, and it is not written. */
int host_programs(int target_fd, enum bpf_attach_type type, __u32 flags, const struct steer_hook *own,
                  int own_len, char *buf, size_t size, int *ret_others);

/* Findings: program types and helpers that the kernel has. */
void host_check_kernel(struct ctl_answer *answer);
/* The same: the MTU of the device that the default route uses. */
void host_check_mtu(struct ctl_answer *answer);
/* The same: whether the clock is synchronized. */
void host_check_clock(struct ctl_answer *answer);

/* All that can be said before an agent runs here, printed to stdout as a JSON array of findings. Whether all
 * is as it should be. */
bool host_checks_print(const struct agent_settings *settings);

#endif
