/* SPDX-License-Identifier: Apache-2.0 */
/* Words for the entries of bruma/reasons.h. */
#ifndef LIB_REASONS_H
#define LIB_REASONS_H

#include "bruma/reasons.h"

/* None of these returns NULL; a value outside the list reads as "internal". */
const char *reason_name(enum bruma_reason reason);
const char *reason_response_flag(enum bruma_reason reason);
const char *reason_what(enum bruma_reason reason);
const char *reason_check(enum bruma_reason reason);

/*
 * reason, for a failure by this error (an errno, either sign). Where descriptors or memory have run out it is
 * out_of_resources, whatever could not be done for want of them: the name of that would lead whoever looks
 * for the cause to the wrong place.
 */
enum bruma_reason reason_of_failure(enum bruma_reason reason, int error);

/* The entry with this name, or BRUMA_REASON_COUNT. */
enum bruma_reason reason_from_name(const char *name);

#endif
