/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/same_node_why.h"

const char *same_node_why_name(enum same_node_why why)
{
#define NAME(id, name, what) #name,
    static const char *const names[] = {SAME_NODE_WHYS(NAME)};
#undef NAME

    return names[why];
}

const char *same_node_why_what(enum same_node_why why)
{
#define WHAT(id, name, what) what,
    static const char *const texts[] = {SAME_NODE_WHYS(WHAT)};
#undef WHAT

    return texts[why];
}
