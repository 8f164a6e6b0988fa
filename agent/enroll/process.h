/* SPDX-License-Identifier: Apache-2.0 */
#ifndef AGENT_ENROLL_PROCESS_H
#define AGENT_ENROLL_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

/* When the process began, in clock ticks since boot; 0: not known. */
uint64_t process_start(pid_t pid);

#endif
