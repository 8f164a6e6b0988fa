/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/reasons.h"

#include <errno.h>
#include <string.h>

struct reason_text {
    const char *name, *flag, *what, *check;
};

#define BRUMA_REASON_TEXT(id, name, flag, what, check) [BRUMA_REASON_##id] = {name, flag, what, check},
static const struct reason_text texts[] = {BRUMA_REASONS(BRUMA_REASON_TEXT)};
#undef BRUMA_REASON_TEXT

static const struct reason_text *text_of(enum bruma_reason reason)
{
    return &texts[(unsigned)reason < BRUMA_REASON_COUNT ? reason : BRUMA_REASON_INTERNAL];
}

const char *reason_name(enum bruma_reason reason)
{
    return text_of(reason)->name;
}

const char *reason_response_flag(enum bruma_reason reason)
{
    return text_of(reason)->flag;
}

const char *reason_what(enum bruma_reason reason)
{
    return text_of(reason)->what;
}

const char *reason_check(enum bruma_reason reason)
{
    return text_of(reason)->check;
}

enum bruma_reason reason_of_failure(enum bruma_reason reason, int error)
{
    int e = error < 0 ? -error : error;

    /* That a pod could not be looked at says more than why, and goes by itself. */
    if (reason == BRUMA_REASON_CAPTURE_UNVERIFIED)
        return reason;
    return e == EMFILE || e == ENFILE || e == ENOMEM ? BRUMA_REASON_OUT_OF_RESOURCES : reason;
}

enum bruma_reason reason_from_name(const char *name)
{
    for (int i = 0; i < BRUMA_REASON_COUNT; i++) {
        if (!strcmp(texts[i].name, name))
            return (enum bruma_reason)i;
    }
    return BRUMA_REASON_COUNT;
}
