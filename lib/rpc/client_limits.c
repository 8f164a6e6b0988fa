/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "server"
#include "lib/rpc/client_limits.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>

#include "bruma/reasons.h"
#include "lib/log.h"
#include "lib/reasons.h"

#define SAY_AGAIN 10000 /* milliseconds between two lines about one server */

void client_limits_init(struct client_limits *c, const char *name, unsigned max, unsigned max_per_source,
                        enum client_worth (*worth)(const struct limited_client *member))
{
    *c = (struct client_limits){.name = name,
                                .max = max ? max : CLIENTS_MAX,
                                .max_per_source = max_per_source ? max_per_source : CLIENTS_PER_SOURCE,
                                .worth = worth};
    list_init(&c->members);
}

static unsigned count_of(const struct client_limits *c, const struct peer_source *source)
{
    const struct limited_client *m;
    unsigned n = 0;

    list_for_each (m, &c->members, node)
        n += peer_source_equal(&m->source, source);
    return n;
}

/* Of the source that holds most, the newcomer counted, the one that costs least, the oldest of those.
 * only_its: of the newcomer's source alone. Called when it is full, and then a walk for each member is little
 * beside the accept.
 */
static struct limited_client *cheapest(struct client_limits *c, const struct peer_source *newcomer,
                                       bool only_its)
{
    struct limited_client *m, *best = NULL;
    unsigned best_count = 0;

    list_for_each (m, &c->members, node) {
        bool is_its = peer_source_equal(&m->source, newcomer);
        unsigned count;

        if (c->worth(m) == CLIENT_KEPT || (only_its && !is_its))
            continue;
        count = only_its ? 0 : count_of(c, &m->source) + is_its;
        if (!best || count > best_count || (count == best_count && c->worth(m) < c->worth(best))) {
            best = m;
            best_count = count;
        }
    }
    return best;
}

static void say(struct client_limits *c, const struct peer_source *source, const char *why, uint64_t now)
{
    char text[ADDR_TEXT_LEN];

    c->turned_away++;
    if (c->said && now - c->said < SAY_AGAIN)
        return;
    c->said = now ? now : 1;
    log_warn("a connection is rejected\tserver=%s source=%s reason=%s why=\"%s\" so-far=%" PRIu64, c->name,
             peer_source_format(source, text), reason_name(BRUMA_REASON_SERVER_CROWDED), why, c->turned_away);
}

int client_limits_admit(struct client_limits *c, const struct peer_source *source, uint64_t now,
                        struct limited_client **ret_goes)
{
    bool full = c->len >= c->max, many = count_of(c, source) >= c->max_per_source;
    struct limited_client *goes;

    if (!full && !many)
        return 0;
    goes = cheapest(c, source, many);
    if (!goes) {
        say(c, source, many ? "too many of one source" : "too many", now);
        return -EBUSY;
    }
    /* One that waits for its next request may be closed silently. */
    if (c->worth(goes) != CLIENT_IDLE)
        say(c, &goes->source, many ? "too many of one source" : "too many", now);
    *ret_goes = goes;
    return 1;
}

void client_limits_add(struct client_limits *c, struct limited_client *member)
{
    list_add_tail(&c->members, &member->node);
    c->len++;
}

void client_limits_remove(struct client_limits *c, struct limited_client *member)
{
    list_del(&member->node);
    c->len--;
}

void client_limits_refresh(struct client_limits *c, struct limited_client *member)
{
    list_del(&member->node);
    list_add_tail(&c->members, &member->node);
}
