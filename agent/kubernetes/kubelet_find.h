/* SPDX-License-Identifier: Apache-2.0 */
/* The kubelet among the processes of this node, by what their files say. Reads them at once; for the loop's
 * thread, as all of it is in memory. */
#ifndef AGENT_KUBERNETES_KUBELET_FIND_H
#define AGENT_KUBERNETES_KUBELET_FIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Where processes and control groups are looked up. */
struct kubelet_paths {
    const char *proc, *mount; /* a procfs; where the cgroup2 hierarchy is mounted */
};

#define KUBELET_CGROUP_LEN 1024
#define KUBELET_EXE_LEN    256

struct kubelet_choice {
    pid_t pid; /* 0: nobody */
    uint64_t began;
    unsigned candidates; /* that fit */
    char cgroup[KUBELET_CGROUP_LEN], exe[KUBELET_EXE_LEN];
    const char *why;
    char refused[200]; /* who is called so and is not taken for it, and why; as far as there is room */
};

/* The process: kubelet, kubelite (MicroK8s) or k3s, in the network namespace of this process, and in no pod;
 * root's, with a program of that name that only root may write, for anybody may call a process anything. Of
 * several the one in the directory known ("": none is), then the one that has run longest. 0, -ENOENT if none
 * runs, or -EXDEV if it is in the root, which would exempt everybody, or outside of what this process may
 * see. */
int kubelet_find(const struct kubelet_paths *paths, const char *known, struct kubelet_choice *ret);

/* Names of processes in the directory or below it that do not belong to the kubelet: neither it, nor begun by
 * it, nor of the container runtime that k3s brings. Returns how many; names as far as there is room. */
int kubelet_other_processes(const struct kubelet_paths *paths, pid_t pid, const char *directory, char *names,
                            size_t size);

/* True if that process is a kubelet still, in that directory: it could have been moved, and its number used
 * again. */
bool kubelet_is_in(const struct kubelet_paths *paths, pid_t pid, const char *directory);

#endif
