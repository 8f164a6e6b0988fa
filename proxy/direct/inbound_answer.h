/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plaintext from outside to a pod whose policies say the same to everybody without identity: the kernel gives
 * the answer. Here is what it is told, for each pod: to pass, to refuse, or why neither.
 *
 * Control thread.
 */
#ifndef PROXY_DIRECT_INBOUND_ANSWER_H
#define PROXY_DIRECT_INBOUND_ANSWER_H

#include <stdbool.h>

#include "bruma/direct.h"
#include "proxy/direct/cutter.h"
#include "proxy/pod/pod.h"

/*
 * The inbound part of the pod's entry: adds to entry->ways, and writes inbound_why and inbound_changes.
 * changing: policies are about to change, so nothing may be passed until it is known what they say. cutter
 * NULL: nothing is passed, since it could not be ended. True: the answer is another one than before, and
 * direct_inbound_written() has to follow.
 */
bool direct_inbound_fill(struct pod *pod, const struct cutter *cutter, bool changing,
                         struct bruma_direct_pod *entry);

/* After the entry was written, if the answer or any policy has changed, and once for each pod when a process
 * takes charge: what was passed before is judged by what holds now. */
void direct_inbound_written(struct pod *pod, struct cutter *cutter);

#endif
