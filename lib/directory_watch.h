/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Says when the files of directories may have changed, however that is done: written in place, replaced by
 * rename, links that are swapped (mounted Secrets and ConfigMaps), removed, a directory that did not exist
 * before. One inotify instance for all of them, of which a user has few; and each directory is looked at
 * every two seconds, for file systems that report nothing, and where the kernel has no instance or watch
 * left.
 */
#ifndef LIB_DIRECTORY_WATCH_H
#define LIB_DIRECTORY_WATCH_H

#include <stdbool.h>

#include "lib/loop.h"

#define DIRECTORY_QUIET_MS 100  /* without another event before changed is called */
#define DIRECTORY_PACE_MS  1000 /* between two calls, and where events never pause the longest wait */
#define DIRECTORY_POLL_MS  2000 /* between looks */

struct directory_watcher {
    struct loop *loop;
    struct loop_watch events; /* fd -1: there is no instance */
    bool without;             /* it was said that something is only looked at */
    struct loop_timer poll;
    struct list all;
};

struct directory_watch {
    struct list node; /* in watcher.all */
    struct directory_watcher *watcher;
    char *path;
    int wd;              /* -1: none */
    uint64_t told, seen; /* how the directory looked when changed was called last, and at the last look */
    bool unrested;       /* it was told of, and not yet that it has rested */
    struct loop_timer quiet;
    uint64_t told_at, since; /* loop_now(): the last call; the first event that was not told of yet */
    /* Called on the loop after a change, not too often; the watch may be removed in it. rested: again, once
     * nothing has changed for a while: until then, one file may have been replaced and another not yet. */
    void (*changed)(void *data, bool rested);
    void *data;
};

/* Without inotify, which the log says, directories are only looked at. 0, or -errno of the loop: it need not
 * be closed then. */
int directory_watcher_open(struct loop *loop, struct directory_watcher *watcher);
/* All watches have been removed. Harmless for one that is all zero. */
void directory_watcher_close(struct directory_watcher *watcher);

/* Calls changed on the loop after each change from now on. path is copied, and need not exist. 0 or
 * -ENOMEM. */
int directory_watch_add(struct directory_watcher *watcher, struct directory_watch *watch, const char *path,
                        void (*changed)(void *data, bool rested), void *data);
/* Harmless for one that is all zero. */
void directory_watch_remove(struct directory_watch *watch);

#endif
