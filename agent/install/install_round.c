/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/install/install_round.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

#include "agent/install/cni_conf.h"
#include "agent/install/install_file.h"

#define LOG_SCOPE "install"
#include "lib/log.h"

#define BURST                6     /* changes at once; after that, so that nobody is kept busy, */
#define CHANGE_MILLISECONDS  10000 /* one in that time */
#define CONTEST_MILLISECONDS 60000 /* after such a quarrel it is told of for so long */
#define EVENTS                                                                                              \
    (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF | \
     IN_ONLYDIR)

/* A burst is free, then one change at a time: who fights with us gets an answer, but no race. */
int install_round_may_write(void *data)
{
    struct install_round *round = data;
    struct install_budget *b = &round->budget;

    while (b->spent && round->now - b->spent_at >= CHANGE_MILLISECONDS) {
        b->spent--;
        b->spent_at += CHANGE_MILLISECONDS;
    }
    if (!b->spent)
        b->spent_at = round->now;
    if (b->spent == BURST) {
        b->contested_until = round->now + CONTEST_MILLISECONDS;
        return -EBUSY;
    }
    b->spent++;
    return 0;
}

static int put_program(struct install_round *round)
{
    const struct agent_settings *c = round->settings;
    char path[512], why[64];
    int r;

    if (!*c->cni_bin_dir)
        return 0;
    snprintf(path, sizeof(path), "%s/" CNI_PLUGIN_TYPE, c->cni_bin_dir);
    r = install_file_copy(c->cni_plugin, path);
    if (r == 1)
        log_info("bruma-cni was installed\tfile=\"%s\"", path);
    if (r < 0)
        snprintf(round->error, sizeof(round->error), "%.150s to %.150s: %.60s", c->cni_plugin, path,
                 strerror_r(-r, why, sizeof(why)));
    return r;
}

static bool among(const int *list, int wd)
{
    for (int i = 0; i < INSTALL_WATCHED; i++) {
        if (list[i] == wd)
            return true;
    }
    return false;
}

void install_round_watch(struct install_round *round)
{
    const char *paths[INSTALL_WATCHED] = {round->settings->cni_conf_dir, round->settings->cni_bin_dir, NULL};
    char real[PATH_MAX];
    int now[INSTALL_WATCHED];

    if (*round->network.file && realpath(round->network.file, real))
        paths[2] = dirname(real);
    round->watch_failed = false;
    for (int i = 0; i < INSTALL_WATCHED; i++) {
        now[i] = paths[i] && *paths[i] ? inotify_add_watch(round->inotify, paths[i], EVENTS) : -1;
        round->watch_failed |= now[i] < 0 && paths[i] && *paths[i];
    }
    for (int i = 0; i < INSTALL_WATCHED; i++) {
        if (round->watches[i] >= 0 && !among(now, round->watches[i]))
            (void)inotify_rm_watch(round->inotify, round->watches[i]);
    }
    memcpy(round->watches, now, sizeof(now));
}

void install_round_run(struct install_round *round)
{
    round->program = put_program(round);
    if (round->program >= 0)
        round->entry = install_network_apply(&round->network);
    install_round_watch(round); /* the file may have led elsewhere before */
}
