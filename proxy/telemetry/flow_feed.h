/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines of the access log for who looks on (`brumactl flows`): connections opened, closed and refused, as
 * JSON, whatever level the log has. Nothing is kept unless somebody has asked within the last seconds; then
 * the last lines are, and how many were lost in between is told. One of the process; any thread.
 */
#ifndef PROXY_TELEMETRY_FLOW_FEED_H
#define PROXY_TELEMETRY_FLOW_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FLOW_FEED_IDLE  10000 /* milliseconds after the last question, then nothing is kept any more */
#define FLOW_FEED_LINES 4096u /* lines that are kept */
#define FLOW_FEED_BYTES (1024u * 1024) /* bytes of them */

/* Whether lines are wanted, at a moment of loop_now(). Costs a worker one read. */
bool flow_feed_wanted(uint64_t now);
/* Copies the line, which ends with a newline; the oldest ones make room. */
void flow_feed_add(const char *line, size_t len);

/*
 * Asks, at now (milliseconds of loop_now()): lines are kept from then on. *ret are those from number after on
 * (a count of lines),
 * {"next","lost","lines":[...]}, as text, which the caller frees, and *ret_len is its length: ask for "next"
 * the next time. lost: lines after it that are not there any more. after 0, or of another process: only what
 * "next" is. 0 or -ENOMEM.
 */
int flow_feed_read(uint64_t now, uint64_t after, char **ret, size_t *ret_len);
/* Frees what is kept, if nobody has asked for so long. Returns whether lines are still kept. */
bool flow_feed_tidy(uint64_t now);

#endif
