/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "install"
#include "agent/install/install.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include "agent/install/cni_conf.h"
#include "agent/install/install_file.h"
#include "agent/install/install_network.h"
#include "agent/install/install_round.h"
#include "bruma/reasons.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/reasons.h"

#define LOOK_MILLISECONDS    10000 /* for file systems that tell nothing */
#define TROUBLE_MILLISECONDS 1000  /* between looks while something is wrong */
#define SOON_MILLISECONDS    20    /* after an event; others follow it mostly */
#define BUSY_MILLISECONDS    10000 /* so long may a writer take before he is told of */
#define ORPHAN_MILLISECONDS  10000 /* so long a list of our own outlives what it was made of */

struct install {
    struct loop *loop;
    const struct agent_settings *settings;
    char *entry;
    void (*missing)(void *data);
    void *missing_data;
    struct loop_watch events;
    struct loop_timer soon, look;
    int inotify, watches[INSTALL_WATCHED];
    struct install_round *round; /* that is under way */
    bool again;                  /* something has changed since it began */

    struct install_network network;
    char unusable[sizeof(((struct install_network *)0)->unusable)]; /* as last logged */
    bool in_place;
    enum bruma_reason reason;
    char error[INSTALL_ERROR_TEXT];
    uint64_t busy_since; /* loop time; 0: nobody is writing */

    uint64_t orphaned_since; /* loop time; 0: there is something that our own list is made of */

    struct install_budget budget;
    uint64_t results[INSTALL_RESULT_COUNT];
};

bool install_configured(const struct agent_settings *settings)
{
    return *settings->cni_conf_dir;
}

/* Without this key the plugin has a list of its own. */
static void add_excluded(cJSON *entry, const char *list)
{
    cJSON *array = cJSON_AddArrayToObject(entry, "exclude_namespaces");

    while (*list) {
        char name[254]; /* a namespace has 63 */
        size_t n = strcspn(list, ", ");

        if (n && n < sizeof(name)) {
            memcpy(name, list, n);
            name[n] = '\0';
            cJSON_AddItemToArray(array, cJSON_CreateString(name));
        }
        list += n + strspn(list + n, ", ");
    }
}

static char *make_entry(const struct agent_settings *settings)
{
    cJSON *o = cJSON_CreateObject();
    char *text;

    cJSON_AddStringToObject(o, "type", CNI_PLUGIN_TYPE);
    cJSON_AddStringToObject(o, "run_dir", settings->run_dir);
    if (!strcmp(settings->source, "kubernetes"))
        add_excluded(o, settings->exclude_namespaces);
    if (settings->cni_status_gate)
        cJSON_AddTrueToObject(o, "status_gate");
    text = cJSON_PrintUnformatted(o);
    cJSON_Delete(o);
    return text;
}

static void report_failure(struct install *in, enum bruma_reason reason, const char *error)
{
    if (in->reason != reason || strcmp(in->error, error) != 0)
        log_error("bruma-cni is not installed\treason=%s error=\"%s\" check=\"%s\"", reason_name(reason),
                  error, reason_check(reason));
    in->reason = reason;
    snprintf(in->error, sizeof(in->error), "%s", error);
}

/* ---- rounds ---- */

static struct install_round *new_round(struct install *in)
{
    struct install_round *round = calloc(1, sizeof(*round));

    if (!round)
        return NULL;
    round->install = in;
    round->loop = in->loop;
    round->settings = in->settings;
    round->now = loop_now(in->loop);
    round->budget = in->budget;
    round->inotify = in->inotify;
    memcpy(round->watches, in->watches, sizeof(round->watches));
    round->network = in->network;
    round->network.data = round;
    /* Who writes a file anew may take the old one away first. */
    round->network.keep_own = !in->orphaned_since || round->now - in->orphaned_since < ORPHAN_MILLISECONDS;
    return round;
}

/* ---- its result ---- */

/* Somebody who writes for a second is no trouble; one who never ends is. */
static void busy(struct install *in)
{
    uint64_t now = loop_now(in->loop);

    if (!in->busy_since)
        in->busy_since = now ? now : 1;
    if (now - in->busy_since >= BUSY_MILLISECONDS)
        report_failure(in, BRUMA_REASON_CNI_CONF_CONTESTED,
                       "another program keeps a network configuration open for writing");
}

static void take_entry(struct install *in, int r)
{
    const struct install_network *n = &in->network;
    uint64_t now = loop_now(in->loop);

    in->orphaned_since = !n->orphaned ? 0 : in->orphaned_since ? in->orphaned_since : now ? now : 1;
    if (strcmp(n->unusable, in->unusable) != 0) {
        if (*n->unusable)
            log_warn("network configurations cannot be used\terror=\"%s\"", n->unusable);
        snprintf(in->unusable, sizeof(in->unusable), "%s", n->unusable);
    }
    if (r == -EAGAIN) {
        busy(in);
        return;
    }
    in->busy_since = 0;
    if (r < 0) {
        report_failure(in, n->reason, n->error);
        in->results[INSTALL_NETWORK_FAILED]++;
    }
}

static void finish(struct install *in, int r, bool changed)
{
    bool was_in_place = in->in_place;

    in->in_place = r == 0 && *in->network.file;
    if (was_in_place && (!in->in_place || in->network.changes))
        in->missing(in->missing_data);
    if (r < 0)
        return;
    if (changed)
        in->results[INSTALL_SUCCESS]++;
    if (in->reason)
        log_info("bruma-cni is installed\tfile=\"%s\"", in->network.file);
    in->reason = BRUMA_REASON_NONE;
    in->error[0] = '\0';
}

static void take_back(struct install *in, struct install_round *round)
{
    bool changed = round->program == 1;
    int r = round->program;

    in->budget = round->budget;
    memcpy(in->watches, round->watches, sizeof(in->watches));
    if (r < 0) {
        report_failure(in, BRUMA_REASON_CNI_INSTALL_FAILED, round->error);
        in->results[INSTALL_PROGRAM_FAILED]++;
    } else {
        r = round->entry;
        in->network = round->network;
        changed |= in->network.changes > 0;
        take_entry(in, r);
    }
    finish(in, r, changed);
    loop_timer_set(in->loop, &in->look,
                   r < 0 || round->watch_failed ? TROUBLE_MILLISECONDS : LOOK_MILLISECONDS);
    free(round);
}

static void apply(struct install *in);

static void on_round_done(void *data)
{
    struct install_round *round = data;
    struct install *in = round->install;

    (void)pthread_join(round->thread, NULL);
    in->round = NULL;
    take_back(in, round);
    if (in->again)
        apply(in);
}

static void *round_thread(void *data)
{
    struct install_round *round = data;

    install_round_run(round);
    /* Without memory for this there is nothing else to do than to wait for some. */
    while (loop_post(round->loop, on_round_done, round) < 0)
        nanosleep(&(const struct timespec){.tv_nsec = 100000000}, NULL);
    return NULL;
}

static void apply(struct install *in)
{
    struct install_round *round;
    int r;

    in->again = in->round != NULL;
    if (in->round)
        return;
    round = new_round(in);
    r = round ? pthread_create(&round->thread, NULL, round_thread, round) : ENOMEM;
    if (r) {
        free(round);
        report_failure(in, BRUMA_REASON_OUT_OF_RESOURCES, "no thread or memory to check it");
        loop_timer_set(in->loop, &in->look, TROUBLE_MILLISECONDS);
        return;
    }
    in->round = round;
}

/* ---- following ---- */

static void on_soon(struct loop_timer *timer)
{
    apply(container_of(timer, struct install, soon));
}

static void on_look(struct loop_timer *timer)
{
    apply(container_of(timer, struct install, look));
}

static void on_events(struct loop_watch *watched, uint32_t events)
{
    struct install *in = container_of(watched, struct install, events);
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

    (void)events;
    while (read(in->inotify, buf, sizeof(buf)) > 0)
        ;
    /* Not put off by each further event: somebody may write there all the time. */
    if (!loop_timer_armed(&in->soon))
        loop_timer_set(in->loop, &in->soon, SOON_MILLISECONDS);
}

int install_open(struct loop *loop, const struct agent_settings *settings, void (*missing)(void *data),
                 void *data, struct install **ret)
{
    struct install *in = calloc(1, sizeof(*in));
    struct install_round *round;
    int r = 0;

    if (!in)
        return -ENOMEM;
    signal(SIGIO, SIG_IGN); /* install_file.h */
    in->loop = loop;
    in->settings = settings;
    in->missing = missing;
    in->missing_data = data;
    in->entry = make_entry(settings);
    in->network = (struct install_network){.directory = settings->cni_conf_dir,
                                           .entry = in->entry,
                                           .may_write = install_round_may_write,
                                           .own_name = settings->cni_owned_conf_name,
                                           .own = settings->cni_owned_conf};
    memset(in->watches, 0xff, sizeof(in->watches));
    in->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    loop_timer_init(&in->soon, on_soon);
    loop_timer_init(&in->look, on_look);
    if (!in->entry)
        r = -ENOMEM;
    if (in->inotify < 0)
        log_warn_errno(
            -errno, "changes of network configurations are found by looking, every second, for there is no "
                    "inotify instance (fs.inotify.max_user_instances, or a limit of descriptors)");
    else if (r == 0)
        r = loop_watch_add(loop, &in->events, in->inotify, EPOLLIN, on_events);
    if (r < 0) {
        install_close(&in);
        return log_error_errno(r, "changes of network configurations cannot be followed");
    }
    install_file_sweep(settings->cni_conf_dir);
    if (*settings->cni_bin_dir)
        install_file_sweep(settings->cni_bin_dir);
    /* The first one here: it is before the loop runs, and the agent is ready once it is done. */
    round = new_round(in);
    if (!round) {
        install_close(&in);
        return -ENOMEM;
    }
    install_round_watch(round); /* before looking, so that nothing falls in between */
    install_round_run(round);
    take_back(in, round);
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
    if (in->round) {
        (void)pthread_join(in->round->thread, NULL);
        loop_unpost(in->loop, on_round_done, in->round);
        free(in->round);
    }
    if (in->inotify >= 0) {
        loop_watch_remove(in->loop, &in->events);
        close(in->inotify);
    }
    free(in->entry);
    free(in);
    *ptr = NULL;
}

/* ---- telling ---- */

bool install_in_place(const struct install *in)
{
    return !in || in->in_place;
}

uint64_t install_result(const struct install *in, enum install_result result)
{
    return in ? in->results[result] : 0;
}

void install_report(const struct install *in, cJSON *object)
{
    enum bruma_reason reason;
    const char *error;

    if (!in)
        return;
    reason = in->reason;
    error = in->error;
    if (!reason && loop_now(in->loop) < in->budget.contested_until) {
        reason = BRUMA_REASON_CNI_CONF_CONTESTED;
        error = "the entry was put back again and again";
    }
    cJSON_AddStringToObject(object, "cniFile", in->network.file);
    cJSON_AddStringToObject(object, "cniReason", reason ? reason_name(reason) : "");
    cJSON_AddStringToObject(object, "cniError", error);
}
