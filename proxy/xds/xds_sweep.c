/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "xds"
#include "proxy/xds/xds_sweep.h"

#include <stdlib.h>
#include <string.h>

#include "lib/log.h"

#define QUIET_ENOUGH 2 /* halves of the settling time */

struct gone {
    struct state *state;
    enum state_type type;
    uint64_t len;
};

static void take_out(void *data, const char *name, size_t name_len)
{
    struct gone *gone = data;
    char *text = strndup(name, name_len);

    if (text)
        state_remove(gone->state, gone->type, text);
    free(text);
    gone->len++;
}

static void let_go(struct xds_sweep *s, enum state_type type)
{
    struct gone gone = {.state = s->state, .type = type};

    xds_versions_sweep(s->versions[type], take_out, &gone);
    state_commit(s->state);
    s->let_go += gone.len;
    log_info("removed resources that the first request had not listed and the control plane does not "
             "mention\ttype=%s resources=%llu",
             type == STATE_ADDRESS ? "addresses" : "policies", (unsigned long long)gone.len);
}

static bool due(const struct xds_sweep *s, enum state_type type)
{
    return s->types[type].answered && xds_versions_unsent(s->versions[type]);
}

static void look_again(struct xds_sweep *s)
{
    s->heard = grpc_channel_heard(s->channel);
    loop_timer_set(s->loop, &s->timer, s->settle / QUIET_ENOUGH);
    grpc_channel_ping(s->channel);
}

/* Silence of a server that does not answer a PING either says nothing of its resources. */
static void on_timer(struct loop_timer *timer)
{
    struct xds_sweep *s = container_of(timer, struct xds_sweep, timer);
    bool lives = grpc_channel_heard(s->channel) != s->heard && !grpc_call_receiving(s->call), more = false;

    for (int i = 0; i < STATE_TYPES; i++) {
        enum state_type type = (enum state_type)i;

        if (!due(s, type))
            continue;
        s->types[i].quiet = lives ? s->types[i].quiet + 1 : 0;
        if (s->types[i].quiet >= QUIET_ENOUGH)
            let_go(s, type);
        more |= due(s, type);
    }
    if (more)
        look_again(s);
}

void xds_sweep_init(struct xds_sweep *s, struct loop *loop, struct state *state,
                    struct xds_versions *const *versions, unsigned long settle)
{
    *s = (struct xds_sweep){.loop = loop, .state = state, .versions = versions, .settle = settle};
    loop_timer_init(&s->timer, on_timer);
}

void xds_sweep_begin(struct xds_sweep *s, struct grpc_channel *channel, const struct grpc_call *call)
{
    xds_sweep_end(s);
    s->channel = channel;
    s->call = call;
}

void xds_sweep_end(struct xds_sweep *s)
{
    loop_timer_cancel(&s->timer);
    memset(s->types, 0, sizeof(s->types));
    s->channel = NULL;
    s->call = NULL;
}

void xds_sweep_answered(struct xds_sweep *s, enum state_type type, size_t before)
{
    bool first = !s->types[type].answered;

    s->types[type].answered = true;
    if (first || xds_versions_unsent(s->versions[type]) != before)
        s->types[type].quiet = 0;
    if (due(s, type) && !loop_timer_armed(&s->timer))
        look_again(s);
}
