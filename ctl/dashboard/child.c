/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/fleet.h"
#include "ctl/source.h"
#include "lib/cleanup.h"

#define BLOCK 65536 /* bytes read at once */

/* Signals as a program that was just started has them. */
static void forget_signals(void)
{
    sigset_t none;

    sigemptyset(&none);
    (void)signal(SIGINT, SIG_IGN); /* of the terminal: the parent ends this one */
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Descriptors of the parent, such as its clients', must not be kept open by a child that takes its time. */
_Noreturn static void run(const struct ctl_options *options, child_fn fn, int argc, char **argv, int out,
                          int err, pid_t parent)
{
    struct ctl_options o = *options;
    int null = open("/dev/null", O_RDONLY), r = CTL_OK;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || null < 0 || dup2(null, 0) < 0 ||
        dup2(out, 1) < 0 || dup2(err, 2) < 0 || close_range(3, ~0U, 0) < 0)
        _exit(CTL_PROBLEM);
    forget_signals();
    if (o.fleet)
        r = fleet_refresh(&o.fleet);
    if (r == CTL_OK)
        r = fn(&o, argc, argv);
    fflush(stdout);
    _exit(r);
}

static int pipe_of(int ret[2])
{
    if (pipe2(ret, O_CLOEXEC) < 0)
        return -errno;
    return fcntl(ret[0], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

int child_start(const struct ctl_options *options, child_fn fn, int argc, char **argv, struct child *ret)
{
    _cleanup_fd_ int out_read = -1, out_write = -1, err_read = -1, err_write = -1;
    pid_t parent = getpid(), pid;
    int ends[2] = {-1, -1}, r = pipe_of(ends);

    out_read = ends[0];
    out_write = ends[1];
    if (r < 0)
        return r;
    ends[0] = ends[1] = -1;
    r = pipe_of(ends);
    err_read = ends[0];
    err_write = ends[1];
    if (r < 0)
        return r;
    fflush(stdout);
    pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        run(options, fn, argc, argv, out_write, err_write, parent);
    *ret = (struct child){.pid = pid, .out = take_fd(&out_read), .err = take_fd(&err_read)};
    return 0;
}

int child_wait(struct child *c)
{
    int status = 0;

    if (!c->pid)
        return -1;
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        ;
    close(c->out);
    close(c->err);
    *c = (struct child){.out = -1, .err = -1};
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int child_end(struct child *c)
{
    if (c->pid)
        (void)kill(c->pid, SIGKILL);
    return child_wait(c);
}

static int make_room(struct child_text *t)
{
    size_t room = t->room ? 2 * t->room : 2 * BLOCK;
    char *data;

    if (t->room - t->len > BLOCK)
        return 0;
    data = realloc(t->data, room);
    if (!data)
        return -ENOMEM;
    t->data = data;
    t->room = room;
    return 0;
}

int child_read(int fd, struct child_text *t, size_t max)
{
    for (;;) {
        ssize_t n;
        int r = make_room(t);

        if (r < 0)
            return r;
        n = read(fd, t->data + t->len, BLOCK);
        if (n <= 0) {
            t->data[t->len] = '\0';
            return n == 0 ? 0 : errno == EAGAIN || errno == EINTR ? 1 : -errno;
        }
        t->len += (size_t)n;
        t->data[t->len] = '\0';
        if (t->len > max)
            return -EFBIG;
    }
}
