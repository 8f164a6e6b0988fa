/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "hand-over"
#include "proxy/handover/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "lib/descriptors.h"
#include "lib/log.h"
#include "proxy/handover/giver.h"
#include "proxy/handover/lane.h"
#include "proxy/handover/taker.h"
#include "proxy/pod/pod.h"
#include "proxy/proxy.h"

#define HELLO_MILLISECONDS 20000 /* for the other to answer */
#define READY_MILLISECONDS 15000 /* until then the new one waits for its pods' certificates */
#define READY_LOOK         20
#define SLOTS_MAX          (1u << 20) /* of descriptors, for which room is made ahead */

enum handover_state { HANDOVER_NONE, HANDOVER_GREETING, HANDOVER_MOVING, HANDOVER_OVER };

/* One of the two directions: a process was new once, and is old once. */
struct direction {
    struct lane lane;
    struct loop_timer timer;
    struct handover *handover;
    enum handover_state state;
    unsigned lanes; /* that are not over */
    uint64_t begun; /* loop_now() */
    uint64_t took;  /* milliseconds, once it is over */
    char why[128];  /* it was not, or not all; "": all was moved */
};

struct handover {
    struct proxy *proxy;
    const struct handover_events *events;
    struct direction giving, taking;
    struct giver_result gave; /* sums of all workers */
    struct taker_result took;
    int pidfd;   /* while taking, or -1 */
    int next_fd; /* to give to once the one before is over, or -1 */
    uint64_t version;
    struct loop_timer ready;
    struct pauses pauses; /* of all that has come */
    unsigned long given_total, left_total, taken_total, refused_total;
};

/* ---- both ---- */

static void over(struct direction *d, const char *why)
{
    struct loop *loop = d->handover->proxy->loop;

    loop_timer_cancel(&d->timer);
    lane_close(&d->lane);
    d->state = HANDOVER_OVER;
    d->took = loop_now(loop) - d->begun;
    if (why)
        snprintf(d->why, sizeof(d->why), "%s", why);
}

static void giving_over(struct handover *h, const char *why)
{
    int fd = h->next_fd;

    over(&h->giving, why);
    h->next_fd = -1;
    if (fd < 0 || handover_give(h, fd) < 0)
        h->events->gave(h->proxy);
}

static void taking_over(struct handover *h, const char *why)
{
    struct handed_over told = {.moved = h->took.taken,
                               .left = h->took.left,
                               .milliseconds = loop_now(h->proxy->loop) - h->taking.begun,
                               .pause = h->took.pause_max > h->took.pauses.max ? h->took.pause_max
                                                                               : h->took.pauses.max,
                               .why = why ? why : h->took.why};

    loop_timer_cancel(&h->ready);
    over(&h->taking, told.why);
    h->events->told(h->proxy, &told);
    log_info("connections were taken over\ttaken=%u refused=%u milliseconds=%llu pause-p99-microseconds=%llu "
             "pause-max-microseconds=%llu",
             h->took.taken, h->took.refused, (unsigned long long)h->taking.took,
             (unsigned long long)pauses_of_most(&h->took.pauses), (unsigned long long)told.pause);
    if (h->pidfd >= 0)
        close(h->pidfd);
    h->pidfd = -1;
}

static int begin(struct direction *d, int fd, const struct lane_events *events)
{
    struct loop *loop = d->handover->proxy->loop;
    int r;

    if (d->state == HANDOVER_GREETING || d->state == HANDOVER_MOVING) {
        close(fd);
        return -EALREADY;
    }
    d->why[0] = '\0';
    d->begun = loop_now(loop);
    d->lanes = 0;
    r = lane_open(&d->lane, loop, fd, events);
    if (r < 0)
        return r;
    d->state = HANDOVER_GREETING;
    loop_timer_set(loop, &d->timer, HELLO_MILLISECONDS);
    return 0;
}

static void on_timer(struct loop_timer *timer)
{
    struct direction *d = container_of(timer, struct direction, timer);

    if (d->state == HANDOVER_GREETING) {
        log_warn("nothing is handed over: the other proxy does not answer");
        if (d == &d->handover->giving)
            giving_over(d->handover, "the other proxy did not answer");
        else
            taking_over(d->handover, "the other proxy did not answer");
    }
}

struct hello {
    uint64_t version, max, slots; /* 0: not told */
};

/* 0 or -EBADMSG. */
static int read_hello(const struct lane_message *m, struct hello *ret)
{
    struct wire_reader reader = wire_reader(m->payload, m->len);
    struct wire_field f;
    int r;

    *ret = (struct hello){};
    while ((r = wire_next(&reader, &f)) > 0) {
        if (f.type == WIRE_VARINT && f.number == BRUMA_HANDOVER_FIELD_VERSION)
            ret->version = f.value;
        else if (f.type == WIRE_VARINT && f.number == BRUMA_HANDOVER_FIELD_VERSION_MAX)
            ret->max = f.value;
        else if (f.type == WIRE_VARINT && f.number == BRUMA_HANDOVER_FIELD_SLOTS)
            ret->slots = f.value;
        else if (f.number % 2 == 0)
            return -EBADMSG;
    }
    return r < 0 || !ret->version ? -EBADMSG : 0;
}

/* ---- the old one ---- */

static void giver_is_done(void *data, const struct giver_result *result)
{
    struct handover *h = data;
    struct direction *d = &h->giving;

    h->gave.moved += result->moved;
    h->gave.left += result->left;
    h->gave.pause_sum += result->pause_sum;
    if (result->pause_max > h->gave.pause_max)
        h->gave.pause_max = result->pause_max;
    if (*result->why)
        snprintf(h->gave.why, sizeof(h->gave.why), "%s", result->why);
    h->given_total += result->moved;
    h->left_total += result->left;
    if (--d->lanes)
        return;
    giving_over(h, h->gave.why);
    log_info(
        "connections were handed over\tmoved=%u left=%u milliseconds=%llu pause-max-microseconds=%llu%s%s%s",
        h->gave.moved, h->gave.left, (unsigned long long)d->took, (unsigned long long)h->gave.pause_max,
        *h->gave.why ? " why=\"" : "", h->gave.why, *h->gave.why ? "\"" : "");
}

/* Its worker begins once the other end has gone its way. */
static int give_lane(struct handover *h, struct worker *w)
{
    int pair[2], r;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    r = lane_say(&h->giving.lane, BRUMA_HANDOVER_LANE, 0, NULL, &pair[1], 1);
    close(pair[1]);
    if (r < 0) {
        close(pair[0]);
        return r;
    }
    h->giving.lanes++;
    giver_start(w, pair[0], giver_is_done, h);
    return 0;
}

static bool on_giving(struct lane *lane, const struct lane_message *m)
{
    struct direction *d = container_of(lane, struct direction, lane);
    struct handover *h = d->handover;
    struct hello hello;

    if (d->state != HANDOVER_GREETING || m->head.kind != BRUMA_HANDOVER_HELLO || read_hello(m, &hello) < 0 ||
        hello.version < BRUMA_HANDOVER_VERSION || hello.version > BRUMA_HANDOVER_VERSION_MAX)
        return false;
    loop_timer_cancel(&d->timer);
    d->state = HANDOVER_MOVING;
    h->gave = (struct giver_result){};
    for (unsigned i = 0; i < h->proxy->workers_len; i++) {
        int r = give_lane(h, h->proxy->workers[i]);

        if (r < 0)
            log_warn_errno(r, "worker %u hands nothing over", i);
    }
    if (!d->lanes)
        giving_over(h, "no lane could be opened");
    return true;
}

static void on_giving_ended(struct lane *lane)
{
    struct direction *d = container_of(lane, struct direction, lane);

    if (d->state == HANDOVER_GREETING)
        giving_over(d->handover, "the other proxy takes nothing");
}

static const struct lane_events giving_events = {on_giving, on_giving_ended};

int handover_give(struct handover *h, int fd)
{
    struct wire_writer hello = {};
    int r;

    if (handover_is_giving(h)) {
        if (h->next_fd >= 0)
            close(h->next_fd);
        h->next_fd = fd;
        return 0;
    }
    r = begin(&h->giving, fd, &giving_events);
    if (r < 0)
        return r;
    wire_put_varint(&hello, BRUMA_HANDOVER_FIELD_VERSION, BRUMA_HANDOVER_VERSION);
    wire_put_varint(&hello, BRUMA_HANDOVER_FIELD_VERSION_MAX, BRUMA_HANDOVER_VERSION_MAX);
    wire_put_varint(&hello, BRUMA_HANDOVER_FIELD_SLOTS, descriptors_slots());
    r = lane_say(&h->giving.lane, BRUMA_HANDOVER_HELLO, 0, &hello, NULL, 0);
    if (r < 0)
        giving_over(h, "the lane has failed");
    return r < 0 ? r : 0;
}

bool handover_is_giving(const struct handover *h)
{
    return h->giving.state == HANDOVER_GREETING || h->giving.state == HANDOVER_MOVING;
}

/* ---- the new one ---- */

static void taker_is_done(void *data, const struct taker_result *result)
{
    struct handover *h = data;

    h->took.taken += result->taken;
    h->took.refused += result->refused;
    h->took.left += result->left;
    if (result->pause_max > h->took.pause_max)
        h->took.pause_max = result->pause_max;
    if (*result->why)
        snprintf(h->took.why, sizeof(h->took.why), "%s", result->why);
    pauses_merge(&h->took.pauses, &result->pauses);
    pauses_merge(&h->pauses, &result->pauses);
    h->taken_total += result->taken;
    h->refused_total += result->refused;
    if (!--h->taking.lanes && !lane_is_open(&h->taking.lane))
        taking_over(h, NULL);
}

/* What has been vouched for by a certificate is taken on by who has one, too. */
static bool has_certificates(const struct proxy *p)
{
    struct pod *pod;

    list_for_each (pod, &p->pods, node) {
        struct tls_context *context = pod->identity ? identity_context(pod->identity) : NULL;

        tls_context_unref(context);
        if (!context)
            return false;
    }
    return true;
}

static void say_ready(struct handover *h)
{
    struct wire_writer payload = {};
    struct loop *loop = h->proxy->loop;

    if (!has_certificates(h->proxy) && loop_now(loop) - h->taking.begun < READY_MILLISECONDS) {
        loop_timer_set(loop, &h->ready, READY_LOOK);
        return;
    }
    h->taking.state = HANDOVER_MOVING;
    wire_put_varint(&payload, BRUMA_HANDOVER_FIELD_VERSION, h->version);
    if (lane_say(&h->taking.lane, BRUMA_HANDOVER_HELLO, 0, &payload, NULL, 0) < 0)
        taking_over(h, "the lane has failed");
}

static void on_ready(struct loop_timer *timer)
{
    say_ready(container_of(timer, struct handover, ready));
}

static bool answer_hello(struct handover *h, const struct lane_message *m)
{
    struct wire_writer payload = {};
    struct hello hello;
    uint64_t version;

    if (h->taking.state != HANDOVER_GREETING || read_hello(m, &hello) < 0)
        return false;
    version = hello.max && hello.max < BRUMA_HANDOVER_VERSION_MAX ? hello.max : BRUMA_HANDOVER_VERSION_MAX;
    if (version < hello.version || version < BRUMA_HANDOVER_VERSION) {
        wire_put_string(&payload, BRUMA_HANDOVER_FIELD_TEXT, "there is no version that both speak");
        (void)lane_say(&h->taking.lane, BRUMA_HANDOVER_REFUSED, 0, &payload, NULL, 0);
        return false;
    }
    loop_timer_cancel(&h->taking.timer);
    h->version = version;
    /* Now, while nothing stands still. */
    descriptors_make_room(hello.slots < SLOTS_MAX ? (unsigned)hello.slots : SLOTS_MAX);
    say_ready(h);
    return true;
}

static bool take_lane(struct handover *h, const struct lane_message *m)
{
    struct proxy *p = h->proxy;
    int pidfd;

    if (h->taking.state != HANDOVER_MOVING || (m->fds_len != 1 && !m->is_short))
        return false;
    pidfd = m->is_short ? -1 : fcntl(h->pidfd, F_DUPFD_CLOEXEC, 0);
    if (pidfd < 0)
        return true; /* the lane closes, and what is at its other end stays */
    taker_start(p->workers[h->taking.lanes % p->workers_len], take_fd(&m->fds[0]), pidfd, taker_is_done, h);
    h->taking.lanes++;
    return true;
}

static bool on_taking(struct lane *lane, const struct lane_message *m)
{
    struct handover *h = container_of(lane, struct direction, lane)->handover;

    if (m->head.kind == BRUMA_HANDOVER_HELLO)
        return answer_hello(h, m);
    return m->head.kind == BRUMA_HANDOVER_LANE && take_lane(h, m);
}

static void on_taking_ended(struct lane *lane)
{
    struct handover *h = container_of(lane, struct direction, lane)->handover;

    if (!h->taking.lanes)
        taking_over(h, h->taking.state == HANDOVER_GREETING ? "the other proxy gives nothing" : NULL);
}

static const struct lane_events taking_events = {on_taking, on_taking_ended};

int handover_take(struct handover *h, int fd, int pidfd)
{
    int r = begin(&h->taking, fd, &taking_events);

    if (r < 0) {
        close(pidfd);
        return r;
    }
    h->took = (struct taker_result){};
    h->pidfd = pidfd;
    return 0;
}

/* ---- what is told ---- */

static void dump_direction(cJSON *o, const struct direction *d)
{
    static const char *const names[] = {[HANDOVER_NONE] = "none",
                                        [HANDOVER_GREETING] = "greeting",
                                        [HANDOVER_MOVING] = "moving",
                                        [HANDOVER_OVER] = "over"};

    cJSON_AddStringToObject(o, "state", names[d->state]);
    if (d->state == HANDOVER_OVER)
        cJSON_AddNumberToObject(o, "milliseconds", (double)d->took);
    if (*d->why)
        cJSON_AddStringToObject(o, "why", d->why);
}

cJSON *handover_dump(const struct handover *h)
{
    cJSON *root = cJSON_CreateObject(), *given = cJSON_AddObjectToObject(root, "given"),
          *taken = cJSON_AddObjectToObject(root, "taken");

    dump_direction(given, &h->giving);
    cJSON_AddNumberToObject(given, "moved", h->gave.moved);
    cJSON_AddNumberToObject(given, "left", h->gave.left);
    cJSON_AddNumberToObject(given, "pauseMicroseconds", (double)h->gave.pause_max);
    dump_direction(taken, &h->taking);
    cJSON_AddNumberToObject(taken, "moved", h->took.taken);
    cJSON_AddNumberToObject(taken, "refused", h->took.refused);
    cJSON_AddNumberToObject(taken, "left", (double)h->took.left);
    cJSON_AddNumberToObject(taken, "pauseMicroseconds", (double)h->took.pause_max);
    cJSON_AddNumberToObject(taken, "pausePercentile99Microseconds", (double)pauses_of_most(&h->took.pauses));
    return root;
}

void handover_write_metrics(const struct handover *h, FILE *out)
{
    fprintf(
        out,
        "# HELP bruma_handed_over_connections Units of live connections that moved between this process and "
        "another.\n"
        "# TYPE bruma_handed_over_connections counter\n"
        "bruma_handed_over_connections_total{direction=\"out\",result=\"moved\"} %lu\n"
        "bruma_handed_over_connections_total{direction=\"out\",result=\"left\"} %lu\n"
        "bruma_handed_over_connections_total{direction=\"in\",result=\"moved\"} %lu\n"
        "bruma_handed_over_connections_total{direction=\"in\",result=\"refused\"} %lu\n",
        h->given_total, h->left_total, h->taken_total, h->refused_total);
    pauses_write(&h->pauses, out);
}

int handover_new(struct proxy *proxy, const struct handover_events *handover_events, struct handover **ret)
{
    struct handover *h = calloc(1, sizeof(*h));

    if (!h)
        return -ENOMEM;
    h->proxy = proxy;
    h->events = handover_events;
    h->pidfd = h->next_fd = -1;
    h->giving.handover = h->taking.handover = h;
    loop_timer_init(&h->giving.timer, on_timer);
    loop_timer_init(&h->taking.timer, on_timer);
    loop_timer_init(&h->ready, on_ready);
    *ret = h;
    return 0;
}

void handover_free(struct handover **ptr)
{
    struct handover *h = *ptr;

    if (!h)
        return;
    lane_close(&h->giving.lane);
    lane_close(&h->taking.lane);
    loop_timer_cancel(&h->giving.timer);
    loop_timer_cancel(&h->taking.timer);
    loop_timer_cancel(&h->ready);
    if (h->pidfd >= 0)
        close(h->pidfd);
    if (h->next_fd >= 0)
        close(h->next_fd);
    free(h);
    *ptr = NULL;
}
