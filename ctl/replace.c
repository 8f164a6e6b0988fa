/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts another proxy beside the one that serves, and waits until it has taken over: "systemctl reload".
 * The service manager is told then which process is the main one. If the new one fails before, it ends, and
 * the one that serves has not been touched.
 *
 * The new one is started as a daemon, so that it is the service manager's child from the beginning: that is
 * told when it ends, as of a main process that it has started itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ctl/commands.h"
#include "ctl/notify.h"
#include "ctl/source.h"
#include "lib/cleanup.h"

#define LOOK_MILLISECONDS      50
#define UNREACHED_MILLISECONDS 1000  /* until an agent that did not answer is asked again */
#define HAND_OVER_MILLISECONDS 30000 /* a proxy that serves is not waited for any longer */
#define END_MILLISECONDS       5000  /* for one that failed, to end by itself */

static volatile sig_atomic_t told_to_end;

struct successor {
    pid_t pid;
    int pidfd;
};

static uint64_t milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static void on_signal(int signal)
{
    (void)signal;
    told_to_end = 1;
}

/* ---- the new process ---- */

/* What is told by the process that is to become the program: who it is; and, if it does not, why. */
struct word {
    pid_t pid;
    int error;
};

static _Noreturn void become(char *const argv[], int fd)
{
    struct word word = {.pid = getpid()};

    /* What is for the service's other processes is not for this one. */
    unsetenv("NOTIFY_SOCKET");
    unsetenv("MAINPID");
    if (write(fd, &word, sizeof(word)) == sizeof(word)) {
        execvp(argv[0], argv);
        word.error = errno;
        (void)!write(fd, &word, sizeof(word));
    }
    _exit(127);
}

/* Forks twice, and has waited for the one between when it returns. */
static int fork_apart(char *const argv[], int fd)
{
    pid_t child = fork();

    if (child < 0)
        return -errno;
    if (child == 0) {
        pid_t grandchild = fork();

        if (grandchild == 0)
            become(argv, fd);
        _exit(grandchild < 0);
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return 0;
}

static int start(char *const argv[], struct successor *ret)
{
    _cleanup_fd_ int from = -1, to = -1;
    struct word word = {}, failed;
    int pipe_fds[2], r;

    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return -errno;
    from = pipe_fds[0];
    to = pipe_fds[1];
    r = fork_apart(argv, to);
    close(take_fd(&to));
    if (r < 0)
        return r;
    if (read(from, &word, sizeof(word)) != sizeof(word))
        return -EAGAIN; /* no process could be made */
    if (read(from, &failed, sizeof(failed)) == sizeof(failed))
        return -failed.error;
    ret->pid = word.pid;
    ret->pidfd = (int)syscall(SYS_pidfd_open, word.pid, 0);
    return ret->pidfd < 0 ? -errno : 0;
}

/* Waits. True: it has ended. */
static bool has_ended(const struct successor *s, int timeout_milliseconds)
{
    struct pollfd p = {.fd = s->pidfd, .events = POLLIN};

    return poll(&p, 1, timeout_milliseconds) > 0;
}

static void end(const struct successor *s)
{
    (void)syscall(SYS_pidfd_send_signal, s->pidfd, SIGTERM, NULL, 0);
    if (!has_ended(s, END_MILLISECONDS))
        (void)syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0);
}

/* ---- what the agent says of it ---- */

enum progress { STARTS, TAKES, SERVES, SUPERSEDED, UNKNOWN };

static enum progress progress_of(const cJSON *status, pid_t pid)
{
    const cJSON *p;

    cJSON_ArrayForEach (p, cJSON_GetObjectItemCaseSensitive(status, "proxies")) {
        const char *state = text_of(p, "state");

        if ((pid_t)number_of(p, "pid") != pid)
            continue;
        if (!strcmp(state, "replaced") || !strcmp(state, "ending"))
            return SUPERSEDED;
        if (strcmp(state, "serving") != 0)
            return STARTS;
        return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(p, "takesOver")) ? TAKES : SERVES;
    }
    return STARTS;
}

static enum progress look(const struct place *place, pid_t pid)
{
    enum progress progress = UNKNOWN;
    cJSON *items;

    if (agent_query(place, "status", NULL, &items) == CTL_OK) {
        progress = progress_of(cJSON_GetArrayItem(items, 0), pid);
        cJSON_Delete(items);
    }
    return progress;
}

/* NULL once it serves and has what the one before it carried, else why it does not. */
static const char *wait_for(const struct ctl_options *o, const struct successor *s)
{
    uint64_t until = milliseconds() + (uint64_t)o->timeout * 1000, served = 0;
    enum progress progress = STARTS;

    while (milliseconds() < until) {
        if (told_to_end) /* what serves may carry live connections by now */
            return served ? NULL : "its service is stopped";
        if (has_ended(s, progress == UNKNOWN ? UNREACHED_MILLISECONDS : LOOK_MILLISECONDS))
            return "it has ended";
        progress = look(&o->place, s->pid);
        if (progress == SUPERSEDED)
            return "another one has taken over from it";
        if (progress != TAKES && progress != SERVES)
            continue;
        if (!served)
            served = milliseconds();
        if (progress == SERVES || milliseconds() - served > HAND_OVER_MILLISECONDS)
            return NULL;
    }
    return served ? NULL : "it does not serve in time";
}

static int tell(const struct successor *s)
{
    char text[64];
    int r;

    snprintf(text, sizeof(text), "MAINPID=%d\n", (int)s->pid);
    r = notify_manager(text);
    if (r < 0)
        fprintf(stderr, "brumactl: the service manager cannot be told of process %d: %s\n", (int)s->pid,
                strerror(-r));
    return r < 0 ? CTL_PROBLEM : CTL_OK;
}

int command_replace(const struct ctl_options *o, int argc, char **argv)
{
    /* poll() ends with it all the same; what is told by the new process is read. */
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct successor s = {.pidfd = -1};
    const char *why;
    int r;

    if (argc < 1) {
        fprintf(stderr, "brumactl: which program? replace PROGRAM [ARGUMENT ...]\n");
        return CTL_USAGE;
    }
    if (look(&o->place, 0) == UNKNOWN)
        return CTL_UNREACHABLE; /* nobody would bring the two together */
    sigaction(SIGTERM, &action, NULL);
    r = start(argv, &s);
    if (r < 0) {
        fprintf(stderr, "brumactl: %s cannot be started: %s\n", argv[0],
                r == -ESRCH ? "it has ended" : strerror(-r));
        return CTL_PROBLEM;
    }
    why = wait_for(o, &s);
    if (!why) {
        printf("process %d has taken over\n", (int)s.pid);
        r = tell(&s);
    } else {
        fprintf(stderr, "brumactl: process %d does not take over: %s\n", (int)s.pid, why);
        end(&s);
        r = told_to_end ? CTL_OK : CTL_PROBLEM; /* whoever stops the service sees no failure in that */
    }
    close(s.pidfd);
    return r;
}
