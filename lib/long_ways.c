/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/long_ways.h"

#include "lib/cleanup.h"

const char *long_way_name(uint32_t why)
{
#define NAME(id, name, what) #name,
    static const char *const names[] = {BRUMA_LONG_WAYS(NAME)};
#undef NAME

    return why < array_size(names) ? names[why] : "unknown";
}

const char *long_way_what(uint32_t why)
{
#define WHAT(id, name, what) what,
    static const char *const texts[] = {BRUMA_LONG_WAYS(WHAT)};
#undef WHAT

    return why < array_size(texts) ? texts[why] : "unknown";
}
