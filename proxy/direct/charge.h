/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is in charge of the direct ways of the node: what is written into the one word of direct_control, which
 * the proxies of an upgrade share and the kernel reads at each connect().
 *
 * Whoever has been deposed never disturbs who came after: proxy is only changed by compare-and-exchange, away
 * from the own number or, by who takes charge, from one that was seen; and valid_until by
 * compare-and-exchange from the value that was read before proxy was found to be the own number, which
 * whoever takes charge has changed in between. What remains is ways, prefixes and why, written by one that is
 * deposed between its look at proxy and its write. That does no harm: ways that are off are missing from the
 * entries of pods too, which each proxy has of its own; prefixes is only written to be more than 0, and never
 * 0 again once it was more; why is a word for people.
 *
 * Control thread.
 */
#ifndef PROXY_DIRECT_CHARGE_H
#define PROXY_DIRECT_CHARGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bruma/direct.h"

/* Whether the word names this proxy. */
bool charge_is_mine(const struct bruma_direct_control *control, uint64_t number);
/* Whose entries count; 0: nobody's. */
uint64_t charge_holder(const struct bruma_direct_control *control);
/* Takes charge, whoever has it: for a moment nobody has. ways: enum bruma_direct_way. until: CLOCK_MONOTONIC,
 * nanoseconds. why: why not all ways are on. False: another one has come in between. */
bool charge_take(struct bruma_direct_control *control, uint64_t number, uint32_t ways, size_t prefixes,
                 uint64_t until, enum bruma_long_way why);
/* Gives it back, if the word names this proxy: at once all takes the long way. False: it does not. */
bool charge_drop(struct bruma_direct_control *control, uint64_t number, enum bruma_long_way why);
/* Takes it from whoever has it, so that nobody has. */
void charge_clear(struct bruma_direct_control *control, enum bruma_long_way why);
/* The word is good until then. False: it is not this proxy's any more. */
bool charge_renew(struct bruma_direct_control *control, uint64_t number, uint64_t until);
/* So many entries are, or are about to be, in mesh_prefixes. */
void charge_set_prefixes(struct bruma_direct_control *control, uint64_t number, size_t prefixes);

#endif
