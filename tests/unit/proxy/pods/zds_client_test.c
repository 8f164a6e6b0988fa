/* SPDX-License-Identifier: Apache-2.0 */
/* The proxy's side of ZDS, with a CNI agent played by the test, pods that only write down, and files that
 * stand for network namespaces. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/netns.h"
#include "lib/seqpacket.h"
#include "lib/zds.h"
#include "proxy/pods/zds_client.h"

#define OWN_COOKIE 1

static char calls[4096], directory[64], path[128], file_a[128], file_b[128];
static struct loop *loop;
static struct zds_client *client_;
static struct loop_timer pump;
static int listener = -1, agent = -1, pumps;
static int ports_taken; /* listeners cannot be opened */
static bool failed;     /* the proxy was told to end */

/* ---- what the client calls ---- */

static struct {
    char uid[32];
    uint64_t cookie;
    int fds[BRUMA_POD_FD_COUNT];
} served[8];
static int served_len, opened;
static int dead_fd = -1;

static void note(const char *what, const char *uid)
{
    size_t len = strlen(calls);

    snprintf(calls + len, sizeof(calls) - len, "%s%s(%s)", len ? " " : "", what, uid);
}

static int index_of(const char *uid)
{
    for (int i = 0; i < served_len; i++) {
        if (!strcmp(served[i].uid, uid))
            return i;
    }
    return -1;
}

int pods_add(struct proxy *proxy, const struct pod_info *info, int fds[BRUMA_POD_FD_COUNT],
             enum bruma_reason *reason, char *error, size_t error_size)
{
    int i = index_of(info->uid);

    note("add", info->uid);
    for (int k = 0; k < BRUMA_POD_FD_COUNT; k++)
        cr_expect(fds[k] >= 0);
    if (i < 0) {
        i = served_len++;
        snprintf(served[i].uid, sizeof(served[i].uid), "%s", info->uid);
    } else {
        close_fds(served[i].fds, BRUMA_POD_FD_COUNT);
    }
    served[i].cookie = info->cookie;
    memcpy(served[i].fds, fds, sizeof(served[i].fds));
    return 0;
}

void pods_delete(struct proxy *proxy, const char *uid)
{
    int i = index_of(uid);

    if (i < 0)
        return;
    note("delete", uid);
    close_fds(served[i].fds, BRUMA_POD_FD_COUNT);
    served[i] = served[--served_len];
}

bool pods_serves(struct proxy *proxy, const struct pod_info *info)
{
    int i = index_of(info->uid);

    return i >= 0 && served[i].cookie == info->cookie;
}

void pods_each(struct proxy *proxy, pods_each_fn fn, void *data)
{
    for (int i = 0; i < served_len; i++) {
        struct pod_info info = {.uid = served[i].uid,
                                .name = "n",
                                .namespace = "s",
                                .service_account = "a",
                                .cookie = served[i].cookie};

        fn(data, &info, false, served[i].fds);
    }
}

static void fail(struct proxy *proxy)
{
    failed = true;
}

int pod_listeners_open(const struct pod_listener_options *options, int netns_fd, int own_netns_fd,
                       int fds[BRUMA_LISTENER_COUNT], char *error, size_t error_size)
{
    if (ports_taken) {
        snprintf(error, error_size, "the port is taken");
        return -EADDRINUSE;
    }
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (fds[i] >= 0)
            continue;
        fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        opened++;
    }
    return 0;
}

int pod_listeners_open_dns(const struct pod_listener_options *options, int netns_fd, int own_netns_fd,
                           int *ret_udp, int *ret_tcp, char *error, size_t error_size)
{
    cr_assert_fail("no socket for DNS is wanted");
    return -EOPNOTSUPP;
}

int pods_set_dns(struct proxy *proxy, const char *uid, int udp, int tcp)
{
    cr_assert_fail("no socket for DNS is wanted");
    return -EOPNOTSUPP;
}

bool pod_listener_dead(int fd)
{
    return fd == dead_fd;
}

int netns_check(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? 0 : -EINVAL;
}

int netns_cookie(int fd, uint64_t *ret)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    *ret = S_ISREG(st.st_mode) ? st.st_ino : OWN_COOKIE;
    return 0;
}

/* ---- the agent's part: steps that are gone through while the loop runs ---- */

enum action {
    ACCEPT,
    ADD,
    ADD_BARE,
    KEEP,
    DEL,
    SNAPSHOT,
    RAW,
    YES,
    NO,
    END,
    CLOSE,
    READY,
    NOT_READY,
    FREE_PORTS,
    DIE,
    WAIT
};

struct step {
    enum action action;
    const char *text; /* a uid, what a refusal must contain, or bytes to send */
    const char *file; /* that is sent as the namespace; by default one of the pod's own */
    int number;       /* of descriptors more than a good message has; of bytes; of milliseconds */
};

static const struct step *script;
static int script_len, at;
static uint64_t wait_until;

static void send_bytes(const void *data, size_t len, const char *file, int count)
{
    int fds[16];

    for (int i = 0; i < count; i++)
        fds[i] = open(file ? file : file_a, O_RDONLY | O_CLOEXEC);
    /* more than eight at once are not for the library's own sender */
    cr_assert(count <= 8 && seqpacket_send(agent, data, len, fds, (size_t)count) == 0);
    close_fds(fds, (size_t)count);
}

static void send_request(const struct step *s, enum zds_request_kind kind, bool info)
{
    struct zds_request q = {.kind = kind,
                            .uid = s->text,
                            .has_info = info,
                            .name = "n",
                            .namespace = "s",
                            .service_account = "a"};
    uint8_t buf[ZDS_MESSAGE_MAX];
    ssize_t len = zds_request_encode(&q, buf);

    cr_assert(len > 0);
    send_bytes(buf, (size_t)len, s->file, (kind == ZDS_ADD) + s->number);
}

/* False: nothing has come yet. */
static bool receive(const struct step *s)
{
    char buf[ZDS_MESSAGE_MAX + 1], error[ZDS_MESSAGE_MAX];
    int fd;
    size_t n;
    ssize_t len = seqpacket_receive(agent, buf, sizeof(buf), &fd, 1, &n);

    if (len == -EAGAIN)
        return false;
    if (s->action == END) {
        cr_assert(len <= 0, "step %d: the connection should have ended", at);
        return true;
    }
    cr_assert(len > 0, "step %d: the connection ended", at);
    cr_assert(n == 0, "step %d: the proxy sends no descriptors", at);
    cr_assert(zds_response_decode(buf, (size_t)len, error, sizeof(error)) == 0);
    if (s->action == YES)
        cr_assert_str_empty(error, "step %d", at);
    else
        cr_assert(strstr(error, s->text) != NULL, "step %d: %s is not in \"%s\"", at, s->text, error);
    return true;
}

static bool accept_proxy(void)
{
    char buf[ZDS_MESSAGE_MAX + 1];
    unsigned version;
    int fd;
    size_t n;
    ssize_t len;

    if (agent < 0)
        agent = seqpacket_accept(listener, NULL);
    if (agent < 0)
        return false;
    len = seqpacket_receive(agent, buf, sizeof(buf), &fd, 1, &n);
    if (len == -EAGAIN)
        return false;
    cr_assert(len == 2 && zds_hello_decode(buf, 2, &version) == 0 && version == 1);
    return true;
}

static bool wait_over(const struct step *s)
{
    if (!wait_until)
        wait_until = loop_now(loop) + (uint64_t)s->number;
    if (loop_now(loop) < wait_until)
        return false;
    wait_until = 0;
    return true;
}

static bool take(const struct step *s)
{
    switch (s->action) {
    case ACCEPT:
        return accept_proxy();
    case ADD:
    case ADD_BARE:
        send_request(s, ZDS_ADD, s->action == ADD);
        return true;
    case KEEP:
        send_request(s, ZDS_KEEP, false);
        return true;
    case DEL:
        send_request(s, ZDS_DEL, false);
        return true;
    case SNAPSHOT:
        send_request(s, ZDS_SNAPSHOT_SENT, false);
        return true;
    case RAW:
        send_bytes(s->text, (size_t)s->number, NULL, 0);
        return true;
    case YES:
    case NO:
    case END:
        return receive(s);
    case CLOSE:
        close(agent);
        agent = -1;
        return true;
    case READY:
    case NOT_READY:
        cr_assert(zds_client_ready(client_) == (s->action == READY), "step %d", at);
        return true;
    case FREE_PORTS:
        ports_taken = 0;
        return true;
    case DIE:
        dead_fd = served[index_of(s->text)].fds[BRUMA_POD_FD_INBOUND];
        zds_client_listener_closed(client_, s->text);
        return true;
    case WAIT:
        return wait_over(s);
    }
    return false;
}

static void on_pump(struct loop_timer *timer)
{
    while (at < script_len && take(&script[at])) {
        if (script[at].action == END) {
            close(agent);
            agent = -1;
        }
        at++;
    }
    /* A few turns more: nothing may come that was not expected. */
    if (at == script_len && ++pumps == 5)
        loop_stop(loop);
    else
        loop_timer_set(loop, &pump, 10);
}

static int open_descriptors(void)
{
    int n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static int descriptors_before;

static void touch(char *name, size_t size, const char *base)
{
    snprintf(name, size, "%s/%s", directory, base);
    close(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
}

static void setup(void)
{
    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    touch(file_a, sizeof(file_a), "a");
    touch(file_b, sizeof(file_b), "b");
    snprintf(path, sizeof(path), "%s/zds.sock", directory);
    descriptors_before = open_descriptors();
    listener = seqpacket_listen(path, 0600);
    cr_assert(listener >= 0);
    cr_assert(loop_new(&loop) == 0);
    loop_timer_init(&pump, on_pump);
}

/* Every test ends with this: whatever was sent, no descriptor is left. */
static void teardown(void)
{
    zds_client_free(&client_);
    loop_free(&loop);
    while (served_len)
        close_fds(served[--served_len].fds, BRUMA_POD_FD_COUNT);
    if (agent >= 0)
        close(agent);
    close(listener);
    cr_expect(open_descriptors() == descriptors_before, "%d descriptors, %d before", open_descriptors(),
              descriptors_before);
    unlink(path);
    unlink(file_a);
    unlink(file_b);
    rmdir(directory);
}

TestSuite(zds_client, .init = setup, .fini = teardown, .timeout = 60);

static void play(const struct step *steps, int len)
{
    static const struct pod_listener_options options = {.mark = 1337};
    _cleanup_fd_ int own = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    script = steps;
    script_len = len;
    cr_assert(zds_client_new(loop, NULL, path, &options, own, fail, &client_) == 0);
    loop_timer_set(loop, &pump, 10);
    cr_assert(loop_run(loop) == 0);
}

#define PLAY(...)                                  \
    do {                                           \
        const struct step steps[] = {__VA_ARGS__}; \
        play(steps, array_size(steps));            \
    } while (0)
#define EXPECT_CALLS(expected) cr_expect_str_eq(calls, expected)
#define SNAPSHOT_DONE \
    {SNAPSHOT},       \
    {                 \
        YES           \
    }

Test(zds_client, a_snapshot_is_taken_and_acknowledged)
{
    PLAY({ACCEPT}, {NOT_READY}, {ADD, "a"}, {YES}, {ADD, "b", file_b}, {YES}, {NOT_READY}, SNAPSHOT_DONE,
         {READY});
    EXPECT_CALLS("add(a) add(b)");
}

Test(zds_client, the_same_add_again_changes_nothing)
{
    PLAY({ACCEPT}, {ADD, "a"}, {YES}, SNAPSHOT_DONE, {ADD, "a"}, {YES}, {READY});
    EXPECT_CALLS("add(a)");
    cr_expect(opened == BRUMA_LISTENER_COUNT);
}

Test(zds_client, another_namespace_is_another_sandbox)
{
    PLAY({ACCEPT}, {ADD, "a"}, {YES}, SNAPSHOT_DONE, {ADD, "a", file_b}, {YES}, {READY});
    EXPECT_CALLS("add(a) delete(a) add(a)");
}

Test(zds_client, what_is_not_named_is_removed_at_the_end_of_the_snapshot)
{
    PLAY({ACCEPT}, {ADD, "a"}, {YES}, {ADD, "b", file_b}, {YES}, SNAPSHOT_DONE, {CLOSE}, {ACCEPT},
         {NOT_READY}, {KEEP, "b"}, {YES}, {KEEP, "unknown"}, {YES}, SNAPSHOT_DONE, {READY});
    EXPECT_CALLS("add(a) add(b) delete(a)");
}

Test(zds_client, a_del_before_the_end_of_the_snapshot_waits_for_it)
{
    PLAY({ACCEPT}, {ADD, "a"}, {YES}, {ADD, "a"}, {YES}, {DEL, "a"}, {YES}, {DEL, "nobody"}, {YES},
         SNAPSHOT_DONE, {READY});
    EXPECT_CALLS("add(a) delete(a)");
}

Test(zds_client, a_del_afterwards_is_obeyed_at_once)
{
    PLAY({ACCEPT}, {ADD, "a"}, {YES}, SNAPSHOT_DONE, {DEL, "nobody"}, {YES}, {DEL, "a"}, {YES}, {READY});
    EXPECT_CALLS("add(a) delete(a)");
}

Test(zds_client, a_failed_add_is_pending_and_tried_again)
{
    ports_taken = 1;
    PLAY({ACCEPT}, SNAPSHOT_DONE, {READY}, {ADD, "a"}, {NO, "taken"}, {NOT_READY}, {KEEP, "", NULL, 1},
         {NO, "descriptors"}, {END}, {ACCEPT}, {KEEP, "a"}, {YES}, SNAPSHOT_DONE, {NOT_READY}, {FREE_PORTS},
         {WAIT, .number = 5100}, {READY});
    EXPECT_CALLS("add(a)");
}

Test(zds_client, what_is_pending_and_not_wanted_is_forgotten)
{
    ports_taken = 1;
    PLAY({ACCEPT}, {ADD, "a"}, {NO, "taken"}, {ADD, "b"}, {NO, "taken"}, {ADD, "b"}, {NO, "taken"},
         SNAPSHOT_DONE, {NOT_READY}, {DEL, "a"}, {YES}, {NOT_READY}, {CLOSE}, {ACCEPT}, SNAPSHOT_DONE,
         {READY});
    cr_expect(zds_client_pods(client_)->pending_len == 0);
    EXPECT_CALLS("");
}

Test(zds_client, an_add_that_never_works_is_pending_too)
{
    PLAY({ACCEPT}, SNAPSHOT_DONE, {ADD, "a", "/dev/null"}, {NO, "not a network namespace"}, {NOT_READY},
         {DEL, "a"}, {YES}, {READY});
    EXPECT_CALLS("");
}

Test(zds_client, a_listener_that_was_destroyed_is_replaced_and_the_others_stay)
{
    PLAY({ACCEPT}, {ADD, "a"}, {YES}, SNAPSHOT_DONE, {DIE, "a"}, {READY});
    EXPECT_CALLS("add(a) add(a)");
    cr_expect(opened == BRUMA_LISTENER_COUNT + 1);
}

Test(zds_client, it_comes_back_after_the_agent_has_gone)
{
    PLAY({ACCEPT}, {ADD, "a"}, {YES}, SNAPSHOT_DONE, {READY}, {CLOSE}, {ACCEPT}, {NOT_READY}, {ADD, "a"},
         {YES}, SNAPSHOT_DONE, {READY});
    EXPECT_CALLS("add(a)");
}

#define BAD(name, text, ...)                                                                               \
    Test(zds_client, bad_message_##name)                                                                   \
    {                                                                                                      \
        PLAY({ACCEPT}, SNAPSHOT_DONE, {__VA_ARGS__}, {NO, text}, {END}, {ACCEPT}, SNAPSHOT_DONE, {READY}); \
        EXPECT_CALLS("");                                                                                  \
        cr_expect(!failed);                                                                                \
    }

BAD(not_protobuf, "cannot read", RAW, "\xff\xff", .number = 2)
BAD(no_payload, "cannot read", RAW, "\x38\x01", .number = 2)
BAD(unknown_payload, "cannot read", RAW, "\x22\x00", .number = 2)
BAD(no_descriptor, "add with 0 descriptors", ADD, "a", .number = -1)
BAD(two_descriptors, "add with 2 descriptors", ADD, "a", .number = 1)
BAD(keep_with_descriptor, "keep with 1", KEEP, "a", .number = 1)
BAD(del_with_descriptor, "del with 1", DEL, "a", .number = 1)
BAD(snapshot_with_descriptor, "snapshot-sent with 1", SNAPSHOT, .number = 1)
BAD(no_uid, "without a uid", ADD, "")

Test(zds_client, bad_message_too_long)
{
    static char text[ZDS_MESSAGE_MAX + 1];

    memset(text, 'a', sizeof(text));
    PLAY({ACCEPT}, SNAPSHOT_DONE, {RAW, text, .number = sizeof(text)}, {NO, "too long"}, {END}, {ACCEPT},
         SNAPSHOT_DONE, {READY});
}

#define FATAL(name, text, ...)                                                        \
    Test(zds_client, protocol_error_##name)                                           \
    {                                                                                 \
        PLAY({ACCEPT}, SNAPSHOT_DONE, {__VA_ARGS__}, {NO, text}, {END}, {NOT_READY}); \
        cr_expect(failed);                                                            \
    }

FATAL(keep, "protocol error: a keep", KEEP, "a")
FATAL(second_snapshot, "protocol error: a second snapshot", SNAPSHOT)
FATAL(no_info, "protocol error: an add without workload_info", ADD_BARE, "a")

/* Attempts come later and later while connections end before their snapshot. */
Test(zds_client, an_agent_that_hangs_up_is_not_stormed)
{
    uint64_t begin;

    begin = loop_now(loop);
    PLAY({ACCEPT}, {CLOSE}, {ACCEPT}, {CLOSE}, {ACCEPT}, {CLOSE}, {ACCEPT}, {CLOSE}, {ACCEPT}, {CLOSE},
         {ACCEPT}, SNAPSHOT_DONE, {READY});
    cr_expect(loop_now(loop) - begin >= 20 + 40 + 80 + 160 + 320, "%lu",
              (unsigned long)(loop_now(loop) - begin));
}

Test(zds_client, a_proxy_that_ends_listens_no_more)
{
    PLAY({ACCEPT}, {ADD, "a"}, {YES}, SNAPSHOT_DONE);
    zds_client_stop(client_);
    cr_expect(!zds_client_ready(client_));
    script_len = at = pumps = 0;
    loop_timer_set(loop, &pump, 10);
    cr_assert(loop_run(loop) == 0);
    cr_expect(seqpacket_accept(listener, NULL) == -EAGAIN, "it does not dial again");
    EXPECT_CALLS("add(a)");
}
