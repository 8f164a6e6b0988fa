/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/browser.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"

extern char **environ;

static bool has_value(const char *variable)
{
    const char *value = getenv(variable);

    return value && *value;
}

static bool write_file(const char *url, char file[BROWSER_FILE_MAX])
{
    const char *directory = has_value("XDG_RUNTIME_DIR") ? getenv("XDG_RUNTIME_DIR") : "/tmp";
    _cleanup_file_ FILE *f = NULL;
    int fd;

    if (snprintf(file, BROWSER_FILE_MAX, "%s/bruma-dashboard-XXXXXX.html", directory) >= BROWSER_FILE_MAX)
        return false;
    fd = mkstemps(file, 5); /* mode 0600 */
    f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f)
        return false;
    fprintf(f,
            "<!doctype html><meta name=\"referrer\" content=\"no-referrer\">"
            "<meta http-equiv=\"refresh\" content=\"0; url=%s\"><a href=\"%s\">Bruma</a>\n",
            url, url);
    return fflush(f) == 0;
}

void browser_open(const char *url, char file[BROWSER_FILE_MAX])
{
    static char program[] = "xdg-open";
    char *argv[] = {program, file, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, pipe;
    pid_t pid;

    file[0] = '\0';
    if (geteuid() == 0 || !isatty(STDOUT_FILENO) || (!has_value("DISPLAY") && !has_value("WAYLAND_DISPLAY")))
        return;
    if (!write_file(url, file))
        return;
    sigemptyset(&none);
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE); /* which is ignored here, and would be there */
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &pipe);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    (void)posix_spawnp(&pid, program, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
}

void browser_forget(const char *file)
{
    if (*file)
        (void)unlink(file);
}
