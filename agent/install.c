/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "install"
#include "install.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bruma/reasons.h"
#include "cni_conf.h"
#include "install_file.h"
#include "log.h"
#include "reasons.h"

#define LOOK_MILLISECONDS    10000 /* file systems that tell nothing; trouble that has gone */
#define QUIET_MILLISECONDS   100   /* after the last event: a writer may not be done */
#define CONTEST_MILLISECONDS 60000
#define CONTEST_WRITES       6 /* so many in that time, and somebody fights with us: wait longer each time */
#define SET_ASIDE            ".bruma-original"
#define EVENTS               (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_DELETE_SELF)

struct install {
    struct loop *loop;
    const struct agent_config *config;
    char *entry;
    struct loop_watch events;
    struct loop_timer soon, look;
    int inotify, wd;

    char file[512]; /* that has the entry; "" if none */
    enum bruma_reason reason;
    char error[256];
    uint64_t contest_begin; /* loop time */
    unsigned writes;        /* since then */
};

bool install_configured(const struct agent_config *config)
{
    return *config->cni_conf_dir;
}

static char *make_entry(const struct agent_config *config)
{
    cJSON *o = cJSON_CreateObject();
    char *text;

    cJSON_AddStringToObject(o, "type", CNI_PLUGIN_TYPE);
    cJSON_AddStringToObject(o, "run_dir", config->run_dir);
    if (config->cni_status_gate)
        cJSON_AddTrueToObject(o, "status_gate");
    text = cJSON_PrintUnformatted(o);
    cJSON_Delete(o);
    return text;
}

static int trouble(struct install *in, enum bruma_reason reason, const char *path, const char *text)
{
    char error[sizeof(in->error)];

    snprintf(error, sizeof(error), "%.160s: %.80s", path, text);
    if (in->reason != reason || strcmp(in->error, error) != 0)
        log_error("bruma-cni is not installed\treason=%s error=\"%s\"", reason_name(reason), error);
    in->reason = reason;
    memcpy(in->error, error, sizeof(error));
    return -EIO;
}

/* ---- the directory ---- */

static int is_configuration(const struct dirent *e)
{
    const char *dot = strrchr(e->d_name, '.');

    return dot && *e->d_name != '.' &&
           (!strcmp(dot, ".conf") || !strcmp(dot, ".conflist") || !strcmp(dot, ".json"));
}

/* By bytes, as runtimes sort; alphasort() would follow the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

struct configuration {
    char path[512];
    struct install_file file;
    enum cni_conf_kind kind;
};

static int load(struct install *in, const char *name, struct configuration *c)
{
    char why[80];
    int r;

    memset(c, 0, sizeof(*c));
    if (snprintf(c->path, sizeof(c->path), "%s/%s", in->config->cni_conf_dir, name) >= (int)sizeof(c->path))
        return -ENAMETOOLONG;
    r = install_file_read(c->path, &c->file);
    if (r < 0) {
        log_warn_errno(r, "a network configuration cannot be read\tfile=\"%s\"", c->path);
        return r;
    }
    c->kind = cni_conf_kind(c->file.text, c->file.len, why, sizeof(why));
    if (c->kind == CNI_CONF_BAD)
        log_warn("a network configuration cannot be used\tfile=\"%s\" error=\"%s\"", c->path, why);
    return c->kind == CNI_CONF_BAD ? -EBADMSG : 0;
}

static int count_write(struct install *in)
{
    uint64_t now = loop_now(in->loop);

    if (now - in->contest_begin >= CONTEST_MILLISECONDS) {
        in->contest_begin = now;
        in->writes = 0;
    }
    return ++in->writes > CONTEST_WRITES ? -EBUSY : 0;
}

static int write_text(struct install *in, const struct configuration *c, const char *path, const char *text,
                      size_t len)
{
    int r = in->loop ? count_write(in) : 0;

    if (r < 0)
        return trouble(in, BRUMA_REASON_CNI_CONF_CONTESTED, path, "the entry vanishes again and again");
    r = install_file_replace(path, &c->file, text, len);
    if (r == -EAGAIN)
        return r; /* it has changed meanwhile: look again */
    return r < 0 ? trouble(in, BRUMA_REASON_CNI_INSTALL_FAILED, path, strerror(-r)) : 0;
}

/* A file of one plugin becomes a list beside it, and is set aside: a list of its name would sort behind it.
 */
static int wrap(struct install *in, const struct configuration *c)
{
    _cleanup_free_ char *text = NULL;
    char list[520], aside[540];
    size_t len;
    int r = cni_conf_wrap(c->file.text, c->file.len, in->entry, &text, &len);

    if (r < 0)
        return trouble(in, BRUMA_REASON_CNI_INSTALL_FAILED, c->path, strerror(-r));
    snprintf(list, sizeof(list), "%.*s.conflist", (int)(strrchr(c->path, '.') - c->path), c->path);
    snprintf(aside, sizeof(aside), "%s%s", c->path, SET_ASIDE);
    r = write_text(in, c, list, text, len);
    if (r == 0 && rename(c->path, aside) < 0)
        return trouble(in, BRUMA_REASON_CNI_INSTALL_FAILED, c->path, strerror(errno));
    if (r == 0)
        snprintf(in->file, sizeof(in->file), "%.500s", list);
    return r;
}

static int add(struct install *in, const struct configuration *c)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r;

    if (c->kind == CNI_CONF_SINGLE)
        return wrap(in, c);
    snprintf(in->file, sizeof(in->file), "%s", c->path);
    if (cni_conf_has(c->file.text, c->file.len, in->entry))
        return 0;
    r = cni_conf_add(c->file.text, c->file.len, in->entry, &text, &len);
    if (r < 0)
        return trouble(in, BRUMA_REASON_CNI_INSTALL_FAILED, c->path, strerror(-r));
    r = write_text(in, c, c->path, text, len);
    if (r == 0)
        log_info("bruma-cni was added to a network\tfile=\"%s\"", c->path);
    return r;
}

static int take_out(struct install *in, const struct configuration *c)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = c->kind == CNI_CONF_LIST ? cni_conf_remove(c->file.text, c->file.len, &text, &len) : 0;

    if (r != 1)
        return r;
    r = write_text(in, c, c->path, text, len);
    if (r == 0)
        log_info("bruma-cni was taken out of a network\tfile=\"%s\"", c->path);
    return r;
}

static int each_file(struct install *in, bool remove)
{
    struct dirent **names = NULL;
    int n = scandir(in->config->cni_conf_dir, &names, is_configuration, by_name), first = 0;
    bool found = false;

    if (n < 0)
        return trouble(in, BRUMA_REASON_CNI_CONF_MISSING, in->config->cni_conf_dir, strerror(errno));
    for (int i = 0; i < n; i++) {
        struct configuration c;
        int r = load(in, names[i]->d_name, &c);

        if (r == 0 && !found && !remove)
            r = add(in, &c);
        else if (r == 0)
            r = take_out(in, &c);
        else
            r = 0; /* it may be half written; the runtime cannot use it either */
        found |= c.kind != CNI_CONF_BAD;
        if (first == 0)
            first = r;
        install_file_clear(&c.file);
        free(names[i]);
    }
    free(names);
    if (!found && !remove)
        return trouble(in, BRUMA_REASON_CNI_CONF_MISSING, in->config->cni_conf_dir,
                       "no usable configuration");
    return first;
}

/* ---- the program ---- */

static int put_program(struct install *in)
{
    const struct agent_config *c = in->config;
    char path[512];
    int r;

    if (!*c->cni_bin_dir)
        return 0;
    snprintf(path, sizeof(path), "%s/" CNI_PLUGIN_TYPE, c->cni_bin_dir);
    r = install_file_copy(c->cni_plugin, path);
    if (r < 0)
        return trouble(in, BRUMA_REASON_CNI_INSTALL_FAILED, path, strerror(-r));
    if (r == 1)
        log_info("bruma-cni was installed\tfile=\"%s\"", path);
    return 0;
}

/* ---- following ---- */

static void watch(struct install *in)
{
    if (in->inotify >= 0 && in->wd < 0)
        in->wd = inotify_add_watch(in->inotify, in->config->cni_conf_dir, EVENTS);
}

static void apply(struct install *in)
{
    int r;

    watch(in); /* before looking, so that nothing falls in between */
    in->file[0] = '\0';
    r = put_program(in);
    if (r == 0)
        r = each_file(in, false);
    if (r == -EAGAIN)
        loop_timer_set(in->loop, &in->soon, QUIET_MILLISECONDS);
    if (r == 0) {
        if (in->reason)
            log_info("bruma-cni is installed\tfile=\"%s\"", in->file);
        in->reason = BRUMA_REASON_NONE;
        in->error[0] = '\0';
    }
}

static void on_soon(struct loop_timer *timer)
{
    apply(container_of(timer, struct install, soon));
}

static void on_look(struct loop_timer *timer)
{
    struct install *in = container_of(timer, struct install, look);

    apply(in);
    loop_timer_set(in->loop, timer, LOOK_MILLISECONDS);
}

static void on_events(struct loop_watch *watched, uint32_t events)
{
    struct install *in = container_of(watched, struct install, events);
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n;

    (void)events;
    while ((n = read(in->inotify, buf, sizeof(buf))) > 0) {
        for (char *p = buf; p < buf + n;
             p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len) {
            if (((struct inotify_event *)p)->mask & IN_IGNORED)
                in->wd = -1; /* the directory is another one now */
        }
    }
    loop_timer_set(in->loop, &in->soon, QUIET_MILLISECONDS);
}

int install_open(struct loop *loop, const struct agent_config *config, struct install **ret)
{
    struct install *in = calloc(1, sizeof(*in));
    int r = 0;

    if (!in)
        return -ENOMEM;
    in->loop = loop;
    in->config = config;
    in->wd = -1;
    in->entry = make_entry(config);
    in->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    loop_timer_init(&in->soon, on_soon);
    loop_timer_init(&in->look, on_look);
    if (!in->entry)
        r = -ENOMEM;
    else if (in->inotify < 0)
        r = -errno;
    if (r == 0)
        r = loop_watch_add(loop, &in->events, in->inotify, EPOLLIN, on_events);
    if (r < 0) {
        install_close(&in);
        return r;
    }
    apply(in);
    loop_timer_set(loop, &in->look, LOOK_MILLISECONDS);
    *ret = in;
    return 0;
}

void install_close(struct install **ptr)
{
    struct install *in = *ptr;

    if (!in)
        return;
    loop_timer_cancel(&in->soon);
    loop_timer_cancel(&in->look);
    if (in->inotify >= 0) {
        loop_watch_remove(in->loop, &in->events);
        close(in->inotify);
    }
    free(in->entry);
    free(in);
    *ptr = NULL;
}

void install_report(const struct install *in, cJSON *object)
{
    if (!in)
        return;
    cJSON_AddStringToObject(object, "cniFile", in->file);
    cJSON_AddStringToObject(object, "cniReason", in->reason ? reason_name(in->reason) : "");
    cJSON_AddStringToObject(object, "cniError", in->error);
}

/* ---- removal ---- */

static int is_aside(const struct dirent *e)
{
    size_t len = strlen(e->d_name), suffix = sizeof(SET_ASIDE) - 1;

    return len > suffix && !strcmp(e->d_name + len - suffix, SET_ASIDE);
}

/* The list that we made of it goes, and it comes back. */
static int restore(const char *directory, const char *name)
{
    char aside[512], original[512], list[520];
    size_t len = strlen(name) - (sizeof(SET_ASIDE) - 1);

    snprintf(aside, sizeof(aside), "%s/%s", directory, name);
    snprintf(original, sizeof(original), "%s/%.*s", directory, (int)len, name);
    snprintf(list, sizeof(list), "%.*s.conflist", (int)(strrchr(original, '.') - original), original);
    if (access(original, F_OK) < 0 && rename(aside, original) < 0)
        return -errno;
    return unlink(list) < 0 && errno != ENOENT ? -errno : 0;
}

int install_remove(const struct agent_config *config)
{
    struct install in = {.config = config, .inotify = -1, .wd = -1};
    struct dirent **names = NULL;
    int r = each_file(&in, true), n = scandir(config->cni_conf_dir, &names, is_aside, by_name);
    char program[512];

    for (int i = 0; i < n; i++) {
        int e = restore(config->cni_conf_dir, names[i]->d_name);

        if (e < 0)
            log_error_errno(e, "a network configuration cannot be put back\tfile=\"%s\"", names[i]->d_name);
        r = r < 0 ? r : e;
        free(names[i]);
    }
    free(names);
    snprintf(program, sizeof(program), "%s/" CNI_PLUGIN_TYPE, config->cni_bin_dir);
    if (*config->cni_bin_dir && unlink(program) < 0 && errno != ENOENT)
        r = r < 0 ? r : log_error_errno(errno, "the plugin cannot be removed\tfile=\"%s\"", program);
    return r;
}
