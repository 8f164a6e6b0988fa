/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/mesh_file_watch.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"

#define LOG_SCOPE "files"
#include "lib/log.h"

#define EVENTS                                                                                              \
    (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | \
     IN_ONLYDIR)

/* What stat() says of the file behind all links; all zero: there is none. */
struct look {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified, changed;
};

struct mesh_file_watch {
    struct loop *loop;
    void (*changed)(void *data);
    void *data;
    char *path, *directory, *name;
    int fd;
    int own, target; /* inotify watches of the directories of path and of what it leads to; -1: none */
    struct loop_watch events;
    struct loop_timer quiet, poll;
    struct look notified; /* as it was when changed was called last */
    struct look seen;     /* at the last poll */
};

static struct look look_at(const char *path)
{
    struct look look;
    struct stat st;

    memset(&look, 0, sizeof(look));
    if (stat(path, &st) == 0) {
        look.device = st.st_dev;
        look.inode = st.st_ino;
        look.size = st.st_size;
        look.modified = st.st_mtim;
        look.changed = st.st_ctim;
    }
    return look;
}

static bool same(const struct look *a, const struct look *b)
{
    return a->device == b->device && a->inode == b->inode && a->size == b->size &&
           a->modified.tv_sec == b->modified.tv_sec && a->modified.tv_nsec == b->modified.tv_nsec &&
           a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static void replace(struct mesh_file_watch *w, int *wd, int other, int now)
{
    if (*wd >= 0 && *wd != now && *wd != other)
        (void)inotify_rm_watch(w->fd, *wd);
    *wd = now;
}

/* Directories come, go and are replaced. Adding a watch that is there changes nothing. */
static void watch_directories(struct mesh_file_watch *w)
{
    _cleanup_free_ char *real = NULL;

    if (w->fd < 0)
        return;
    real = realpath(w->path, NULL);
    replace(w, &w->own, w->target, inotify_add_watch(w->fd, w->directory, EVENTS));
    replace(w, &w->target, w->own, real ? inotify_add_watch(w->fd, dirname(real), EVENTS) : -1);
}

static void notify_soon(struct mesh_file_watch *w)
{
    loop_timer_set(w->loop, &w->quiet, MESH_FILE_QUIET_MS);
}

static void on_quiet(struct loop_timer *timer)
{
    struct mesh_file_watch *w = container_of(timer, struct mesh_file_watch, quiet);

    watch_directories(w);
    w->notified = w->seen = look_at(w->path);
    w->changed(w->data);
}

static void on_poll(struct loop_timer *timer)
{
    struct mesh_file_watch *w = container_of(timer, struct mesh_file_watch, poll);
    struct look now = look_at(w->path);

    watch_directories(w);
    /* Not told of, and the same at two looks: nobody is writing it. */
    if (!same(&now, &w->notified) && same(&now, &w->seen))
        notify_soon(w);
    w->seen = now;
    loop_timer_set(w->loop, &w->poll, MESH_FILE_POLL_MS);
}

static bool is_link(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

static void handle(struct mesh_file_watch *w, const struct inotify_event *e)
{
    struct look now;

    if (e->len && !strcmp(e->name, w->name) && e->wd == w->own) {
        /* What is made by open() is still empty; its close comes as an event of its own. */
        if (!(e->mask & IN_CREATE) || is_link(w->path))
            notify_soon(w);
        return;
    }
    /* Another name: a link on the way to the file may lead elsewhere now, or what it leads to was written. */
    if (e->mask & IN_CREATE)
        return;
    now = look_at(w->path);
    if (!same(&now, &w->notified))
        notify_soon(w);
}

static void on_events(struct loop_watch *watch, uint32_t events)
{
    struct mesh_file_watch *w = container_of(watch, struct mesh_file_watch, events);
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n;

    while ((n = read(w->fd, buf, sizeof(buf))) > 0) {
        for (char *p = buf; p < buf + n; p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len)
            handle(w, (struct inotify_event *)p);
    }
}

int mesh_file_watch_open(struct loop *loop, const char *path, void (*changed)(void *data), void *data,
                         struct mesh_file_watch **ret)
{
    struct mesh_file_watch *w = calloc(1, sizeof(*w));
    const char *slash = strrchr(path, '/');
    int r = 0;

    if (!w)
        return -ENOMEM;
    w->loop = loop;
    w->changed = changed;
    w->data = data;
    w->own = w->target = -1;
    loop_timer_init(&w->quiet, on_quiet);
    loop_timer_init(&w->poll, on_poll);
    w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w->fd < 0)
        log_warn_errno(
            -errno,
            "changes of the mesh file are found by looking, every two seconds, for there is no inotify "
            "instance (fs.inotify.max_user_instances, or a limit of descriptors)");
    w->path = strdup(path);
    w->name = strdup(slash ? slash + 1 : path);
    w->directory = !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
    if (!w->path || !w->name || !w->directory)
        r = -ENOMEM;
    if (r == 0 && w->fd >= 0)
        r = loop_watch_add(loop, &w->events, w->fd, EPOLLIN, on_events);
    if (r < 0) {
        mesh_file_watch_close(&w);
        return r;
    }
    watch_directories(w);
    w->notified = w->seen = look_at(path);
    loop_timer_set(loop, &w->poll, MESH_FILE_POLL_MS);
    *ret = w;
    return 0;
}

void mesh_file_watch_close(struct mesh_file_watch **watch)
{
    struct mesh_file_watch *w = *watch;

    if (!w)
        return;
    loop_timer_cancel(&w->quiet);
    loop_timer_cancel(&w->poll);
    if (w->fd >= 0) {
        loop_watch_remove(w->loop, &w->events);
        close(w->fd);
    }
    free(w->path);
    free(w->name);
    free(w->directory);
    free(w);
    *watch = NULL;
}
