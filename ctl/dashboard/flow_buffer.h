/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last lines of `brumactl flows -f`, which runs while somebody looks, numbered from 1 on. All on the
 * loop's thread.
 */
#ifndef CTL_DASHBOARD_FLOW_BUFFER_H
#define CTL_DASHBOARD_FLOW_BUFFER_H

#include <stdint.h>
#include <stdio.h>

#include "ctl/dashboard/child.h"
#include "lib/loop.h"

#define FLOW_LINES_MAX          4096               /* lines that are kept */
#define FLOW_BYTES_MAX          (4u * 1024 * 1024) /* of all of them */
#define FLOW_LINE_MAX           (64u * 1024)       /* bytes; a longer one is left out */
#define FLOW_SAID_MAX           (64u * 1024)       /* bytes of complaints, then the command is started anew */
#define FLOW_IDLE_MILLISECONDS  15000              /* nobody has asked: the command is ended */
#define FLOW_AGAIN_MILLISECONDS 1000               /* between two starts of the command */

struct flow_buffer;

/* options outlive it. NULL without memory; the caller frees it. */
struct flow_buffer *flow_buffer_new(struct loop *loop, const struct ctl_options *options);
/* Ends the command. NULL is none. */
void flow_buffer_free(struct flow_buffer **buffer);

/* Starts the command if it does not run, and appends lines with numbers above this one (of a line; 0:
 * all), as JSON:
 * {"next": number to ask with, "lost": how many were pushed out before, "runs": whether the command does,
 * "said": its latest complaint, "lines": [...]}. */
void flow_buffer_tell(struct flow_buffer *buffer, uint64_t above, FILE *out);

#endif
