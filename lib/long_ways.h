/* SPDX-License-Identifier: Apache-2.0 */
/* Why a connection goes through the proxy although its kind may go directly: BRUMA_LONG_WAYS, for people. */
#ifndef LIB_LONG_WAYS_H
#define LIB_LONG_WAYS_H

#include <stdint.h>

#include "bruma/direct.h"

/* Both: a static text, never NULL; "unknown" for a number of a newer program. */
const char *long_way_name(uint32_t why);
const char *long_way_what(uint32_t why);

#endif
