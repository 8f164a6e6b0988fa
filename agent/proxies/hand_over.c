/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/proxies/hand_over.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/message.h"
#include "lib/seqpacket.h"

#define LOG_SCOPE "proxies"
#include "lib/log.h"

#define NUMBER_MAX (UINT64_C(1) << 53)

void hand_over_init(struct local_proxy *p)
{
    p->give_fd = p->take_fds[0] = p->take_fds[1] = -1;
}

void hand_over_clear(struct local_proxy *p)
{
    close_fds(&p->give_fd, 1);
    close_fds(p->take_fds, 2);
}

static int connect_both(struct local_proxy *old, struct local_proxy *young)
{
    pid_t pid = connection_pid(old->connection);
    int pair[2], pidfd;

    /* Without a name for the old process nobody could tell a dead one from one that has closed its socket. */
    pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (pidfd < 0)
        return pid > 0 ? -errno : -ESRCH;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        int r = -errno;

        close(pidfd);
        return r;
    }
    hand_over_clear(old);
    hand_over_clear(young);
    old->give_fd = pair[0];
    young->take_fds[0] = pair[1];
    young->take_fds[1] = pidfd;
    young->takes_over = true;
    return 0;
}

void hand_over_begin(struct local_proxy *old, struct local_proxy *young)
{
    const char *why = NULL;
    int r = 0;

    if (!old->server->settings->hand_over)
        return;
    if (!old->hands_over)
        why = "the old proxy cannot";
    else if (!young->hands_over)
        why = "the new proxy cannot";
    else
        r = connect_both(old, young);
    if (r < 0)
        why = strerror(-r);
    if (why)
        log_info("live connections are not handed over\tpid=%d by=%d why=\"%s\"",
                 (int)connection_pid(old->connection), (int)connection_pid(young->connection), why);
}

bool hand_over_wanted(const struct local_proxy *p)
{
    return p->give_fd >= 0 || p->take_fds[0] >= 0;
}

cJSON *hand_over_message(const struct local_proxy *p, int ret_fds[2], size_t *ret_fds_len)
{
    bool give = p->give_fd >= 0;

    ret_fds[0] = give ? p->give_fd : p->take_fds[0];
    ret_fds[1] = p->take_fds[1];
    *ret_fds_len = give ? 1 : 2;
    return message_new(give ? "hand-over" : "take");
}

int hand_over_told(struct local_proxy *p, const cJSON *message)
{
    static const char *const numbers[] = {"moved", "left", "milliseconds", "pauseMicroseconds"};
    cJSON *told = cJSON_CreateObject();
    const char *why;

    for (size_t i = 0; i < array_size(numbers); i++) {
        uint64_t n;

        if (message_number(message, numbers[i], NUMBER_MAX, &n) < 0) {
            cJSON_Delete(told);
            return -EBADMSG;
        }
        cJSON_AddNumberToObject(told, numbers[i], (double)n);
    }
    if (message_text(message, "why", 256, &why) < 0) {
        cJSON_Delete(told);
        return -EBADMSG;
    }
    cJSON_AddStringToObject(told, "why", why);
    cJSON_Delete(p->handed_over);
    p->handed_over = told;
    p->takes_over = false;
    return 0;
}
