/* SPDX-License-Identifier: Apache-2.0 */
/* Slices of the processor. */
#ifndef LIB_SLICE_H
#define LIB_SLICE_H

#include <stdbool.h>

/* How long the calling thread runs at a time where others want to: short slices bring it on sooner when there
 * is something to do, at no more of the processor. False: back to what the system does. Linux 6.12 and later
 * do so; older ones, and where it is not allowed, change nothing. */
void slice_short(bool is_short);

#endif
