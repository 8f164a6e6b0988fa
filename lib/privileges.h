/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program gives up once it is set up, so that whoever takes it over has less: capabilities that it
 * does not use, system calls that it does not make, and its memory, which holds keys, in core files. What
 * each program keeps is in docs/security.md.
 */
#ifndef LIB_PRIVILEGES_H
#define LIB_PRIVILEGES_H

#include <stdbool.h>
#include <stdint.h>

#define PRIVILEGE(capability) (UINT64_C(1) << (capability)) /* CAP_... of <linux/capability.h> */

/* No core files, no debugger of anybody but root with CAP_SYS_PTRACE, and nobody's look into /proc/PID.
 * Nothing in programs that were built with a sanitizer, which looks into itself. 0 or -errno. */
int privileges_hide_memory(void);

/* Of the capabilities it has the calling thread, and each that it starts from now on, keeps these; what is
 * not kept is gone for what it would run, too, and set-uid programs give nothing. 0 or -errno. */
int privileges_keep(uint64_t capabilities);

enum privileges_role {
    PRIVILEGES_PROXY, /* updates BPF maps that it was given, and nothing else of bpf(2) */
    PRIVILEGES_AGENT,
};

/* Refuses (EPERM) system calls that the program does not make, in all of its threads: to run programs, to
 * enter namespaces but of the network or to make some, to mount, to trace, to load modules and kernels,
 * io_uring and more. Another architecture's calls end the process. Nothing in programs that were built with a
 * sanitizer. 0, -ENOSYS where the architecture is not known here or the kernel has no filters, or -errno. */
int privileges_filter(enum privileges_role role);

#endif
