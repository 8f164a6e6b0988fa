/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "files"
#include "lib/directory_watch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"

#define ENTRIES_MAX 4096 /* that are looked at */
#define EVENTS                                                                                              \
    (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | \
     IN_ATTRIB | IN_ONLYDIR)

static uint64_t mix(uint64_t hash, const void *data, size_t len)
{
    for (const unsigned char *p = data, *end = p + len; p < end; p++)
        hash = (hash ^ *p) * 1099511628211u; /* FNV-1a */
    return hash;
}

/* Of one file behind all links; times in nanoseconds, so that a change within a second counts. */
static uint64_t look_at_entry(int directory, const char *name)
{
    uint64_t hash = mix(14695981039346656037u, name, strlen(name));
    struct stat st;

    if (fstatat(directory, name, &st, 0) < 0)
        return hash;
    hash = mix(hash, &st.st_dev, sizeof(st.st_dev));
    hash = mix(hash, &st.st_ino, sizeof(st.st_ino));
    hash = mix(hash, &st.st_mode, sizeof(st.st_mode));
    hash = mix(hash, &st.st_size, sizeof(st.st_size));
    hash = mix(hash, &st.st_mtim, sizeof(st.st_mtim));
    return mix(hash, &st.st_ctim, sizeof(st.st_ctim));
}

/* 0: there is no such directory. The order of entries does not matter. */
static uint64_t look_at(const char *path)
{
    DIR *directory = opendir(path);
    uint64_t sum = 1;
    struct dirent *entry;

    if (!directory)
        return 0;
    for (int n = 0; n < ENTRIES_MAX && (entry = readdir(directory)); n++) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            sum += look_at_entry(dirfd(directory), entry->d_name);
    }
    closedir(directory);
    return sum ? sum : 1;
}

/* The kernel has one watch for a directory, by whichever paths it is known. */
static bool is_shared(const struct directory_watch *watch)
{
    const struct directory_watch *other;

    list_for_each (other, &watch->watcher->all, node) {
        if (other != watch && other->wd == watch->wd)
            return true;
    }
    return false;
}

static void forget_directory(struct directory_watch *w)
{
    if (w->wd >= 0 && !is_shared(w))
        (void)inotify_rm_watch(w->watcher->events.fd, w->wd);
    w->wd = -1;
}

/* Once: it is the same for all that follow. */
static void say_without(struct directory_watcher *watcher, int error, const char *what)
{
    if (!watcher->without)
        log_warn_errno(error, "changes of files are found by looking, every two seconds, for there is no %s",
                       what);
    watcher->without = true;
}

/* Directories come, go and are replaced. Adding a watch that is there changes nothing. */
static void watch_directory(struct directory_watch *w)
{
    int wd;

    if (w->watcher->events.fd < 0)
        return;
    wd = inotify_add_watch(w->watcher->events.fd, w->path, EVENTS);
    if (wd < 0 && (errno == ENOSPC || errno == ENOMEM))
        say_without(w->watcher, -errno, "inotify watch left (fs.inotify.max_user_watches)");
    if (wd != w->wd)
        forget_directory(w);
    w->wd = wd;
}

static void tell(struct directory_watch *w, uint64_t now)
{
    w->told = w->seen = now;
    w->told_at = loop_now(w->watcher->loop);
    w->unrested = true;
    w->changed(w->data, false);
}

static void on_quiet(struct loop_timer *timer)
{
    struct directory_watch *w = container_of(timer, struct directory_watch, quiet);
    uint64_t now = look_at(w->path);

    watch_directory(w);
    if (now != w->told)
        tell(w, now);
}

/* A change that the kernel did not report is told once it is the same at two looks: nobody is at it. */
static void look_again(struct directory_watch *w)
{
    uint64_t now = look_at(w->path), before = w->seen;

    watch_directory(w);
    w->seen = now;
    if (now != w->told) {
        if (now == before)
            tell(w, now);
    } else if (w->unrested && now == before && !loop_timer_armed(&w->quiet)) {
        w->unrested = false;
        w->changed(w->data, true);
    }
}

/* Callbacks may add watches, and remove any of them. */
static void on_poll(struct loop_timer *timer)
{
    struct directory_watcher *watcher = container_of(timer, struct directory_watcher, poll);
    struct list round;

    loop_timer_set(watcher->loop, timer, DIRECTORY_POLL_MS);
    list_init(&round);
    list_splice(&round, &watcher->all);
    while (!list_empty(&round)) {
        struct directory_watch *w = list_first(&round, struct directory_watch, node);

        list_del(&w->node);
        list_add_tail(&watcher->all, &w->node);
        look_again(w);
    }
}

/* What changes all the time is told all the same, and does not keep anybody busy. */
static uint64_t when(const struct directory_watch *w, uint64_t now)
{
    uint64_t at = now + DIRECTORY_QUIET_MS;

    if (at > w->since + DIRECTORY_PACE_MS)
        at = w->since + DIRECTORY_PACE_MS;
    if (w->told_at && at < w->told_at + DIRECTORY_PACE_MS)
        at = w->told_at + DIRECTORY_PACE_MS;
    return at > now ? at - now : 0;
}

static void wait_for_quiet(struct directory_watch *w)
{
    uint64_t now = loop_now(w->watcher->loop);

    if (!loop_timer_armed(&w->quiet))
        w->since = now;
    loop_timer_set(w->watcher->loop, &w->quiet, when(w, now));
}

static void on_event(struct directory_watcher *watcher, const struct inotify_event *e)
{
    struct directory_watch *w;

    /* What is made by open() is still empty; its close comes as an event of its own. Events that were lost
     * are found at the next look. */
    list_for_each (w, &watcher->all, node) {
        if (w->wd == e->wd)
            wait_for_quiet(w);
    }
}

static void on_events(struct loop_watch *watch, uint32_t events)
{
    struct directory_watcher *watcher = container_of(watch, struct directory_watcher, events);
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n;

    (void)events;
    while ((n = read(watch->fd, buf, sizeof(buf))) > 0) {
        for (char *p = buf; p < buf + n; p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len)
            on_event(watcher, (struct inotify_event *)p);
    }
}

int directory_watcher_open(struct loop *loop, struct directory_watcher *watcher)
{
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), r = 0;

    *watcher = (struct directory_watcher){.loop = loop, .events = {.fd = -1}};
    if (fd < 0)
        say_without(watcher, -errno,
                    "inotify instance (fs.inotify.max_user_instances, or a limit of descriptors)");
    else
        r = loop_watch_add(loop, &watcher->events, fd, EPOLLIN, on_events);
    if (r < 0) {
        close(fd);
        watcher->loop = NULL;
        return r;
    }
    list_init(&watcher->all);
    loop_timer_init(&watcher->poll, on_poll);
    loop_timer_set(loop, &watcher->poll, DIRECTORY_POLL_MS);
    return 0;
}

void directory_watcher_close(struct directory_watcher *watcher)
{
    int fd = watcher->events.fd;

    if (!watcher->loop)
        return;
    loop_timer_cancel(&watcher->poll);
    if (fd >= 0) {
        loop_watch_remove(watcher->loop, &watcher->events);
        close(fd);
    }
    watcher->loop = NULL;
}

int directory_watch_add(struct directory_watcher *watcher, struct directory_watch *w, const char *path,
                        void (*changed)(void *data, bool rested), void *data)
{
    *w = (struct directory_watch){.watcher = watcher, .wd = -1, .changed = changed, .data = data};
    w->path = strdup(path);
    if (!w->path) {
        w->watcher = NULL;
        return -ENOMEM;
    }
    loop_timer_init(&w->quiet, on_quiet);
    list_add_tail(&watcher->all, &w->node);
    watch_directory(w);
    w->told = w->seen = look_at(path);
    return 0;
}

void directory_watch_remove(struct directory_watch *w)
{
    if (!w->watcher)
        return;
    loop_timer_cancel(&w->quiet);
    forget_directory(w);
    list_del(&w->node);
    free(w->path);
    w->path = NULL;
    w->watcher = NULL;
}
