/* SPDX-License-Identifier: Apache-2.0 */
/* What DNS has said of a hostname. */
#ifndef PROXY_RESOLVE_NAME_ANSWER_H
#define PROXY_RESOLVE_NAME_ANSWER_H

#include <stdint.h>

#include "bruma/reasons.h"
#include "lib/addr.h"

#define NAME_ADDRESSES_MAX 32  /* half of them of a family, where there are more */
#define NAME_MAX_LEN       253 /* bytes of a hostname */

struct name_answer {
    enum bruma_reason reason; /* NONE: there are addresses */
    uint32_t len;             /* at least 1 with NONE, else 0 */
    struct addr addresses[NAME_ADDRESSES_MAX];
    char detail[96]; /* in words, where there is a reason */
};

#endif
