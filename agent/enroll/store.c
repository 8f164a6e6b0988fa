/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/store.h"
#include "agent/enroll/member.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/cleanup.h"
#include "lib/file.h"

#define LOG_SCOPE "store"
#include "lib/log.h"

#define RECORD_MAX (64 * 1024)
#define PATH_TEXT  1024

static int read_boot_id(char *buf, size_t size)
{
    ssize_t n = file_read_text(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 0, buf, size);

    if (n < 0)
        return (int)n;
    buf[strcspn(buf, "\n")] = '\0';
    return 0;
}

int store_open(const char *run_dir, const char *boot_id, struct store *ret)
{
    struct store store = {0};
    int r = 0;

    if (snprintf(store.directory, sizeof(store.directory), "%s/pods", run_dir) >=
        (int)sizeof(store.directory))
        return -ENAMETOOLONG;
    if (boot_id)
        snprintf(store.boot_id, sizeof(store.boot_id), "%s", boot_id);
    else
        r = read_boot_id(store.boot_id, sizeof(store.boot_id));
    if (r < 0)
        return r;
    if (mkdir(run_dir, 0755) < 0 && errno != EEXIST)
        return -errno;
    if (mkdir(store.directory, 0700) < 0 && errno != EEXIST)
        return -errno;
    *ret = store;
    return 0;
}

static cJSON *record_of(const struct store *store, const struct pod *pod)
{
    cJSON *o = cJSON_CreateObject(), *runs;
    const struct attachment *a;

    if (!o)
        return NULL;
    cJSON_AddStringToObject(o, "op", "pod");
    cJSON_AddStringToObject(o, "bootId", store->boot_id);
    cJSON_AddStringToObject(o, "uid", pod->uid);
    cJSON_AddStringToObject(o, "namespace", pod->namespace);
    cJSON_AddStringToObject(o, "name", pod->name);
    cJSON_AddStringToObject(o, "containerId", pod->container_id);
    cJSON_AddStringToObject(o, "netns", pod->netns_path);
    message_add_u64(o, "cookie", pod->cookie);
    message_add_addresses(o, "ips", pod->addresses, pod->addresses_len);
    cJSON_AddStringToObject(o, "state", pod_state_name(pod->enrollment->state));
    cJSON_AddNumberToObject(o, "generation", pod->enrollment->generation);
    cJSON_AddBoolToObject(o, "capturedSinceStart", pod->enrollment->captured_since_start);
    message_add_u64(o, "addedAt", (uint64_t)pod->added_at);
    message_add_u64(o, "added", pod->added); /* the same clock until the next boot */
    message_add_u64(o, "enrolledAt", (uint64_t)pod->enrollment->enrolled_at);
    message_add_u64(o, "enrolMicroseconds", pod->enrollment->took_microseconds);
    message_add_u64(o, "endingAt", (uint64_t)pod->enrollment->ending_at);
    cJSON_AddStringToObject(o, "serviceAccount", pod->enrollment->service_account);
    cJSON_AddBoolToObject(o, "bypassInbound", pod->enrollment->bypass_inbound);
    cJSON_AddStringToObject(o, "outboundPolicy", outbound_policy_name(pod->enrollment->outbound_policy));
    if (pod->enrollment->direct.outside != DIRECT_UNSAID)
        cJSON_AddBoolToObject(o, "directOutside", pod->enrollment->direct.outside == DIRECT_ON);
    if (pod->enrollment->direct.inbound != DIRECT_UNSAID)
        cJSON_AddBoolToObject(o, "directInbound", pod->enrollment->direct.inbound == DIRECT_ON);
    cJSON_AddStringToObject(o, "sameNode", same_node_name(pod->enrollment->direct.same_node));
    runs = cJSON_AddArrayToObject(o, "attachments");
    list_for_each (a, &pod->attachments, node) {
        cJSON *run = cJSON_CreateObject();

        cJSON_AddStringToObject(run, "network", a->network);
        cJSON_AddStringToObject(run, "ifname", a->ifname);
        cJSON_AddItemToArray(runs, run);
    }
    return o;
}

static int write_whole(const char *path, const char *text)
{
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    size_t len = strlen(text), done = 0;

    if (fd < 0)
        return -errno;
    while (done < len) {
        ssize_t n = write(fd, text + done, len - done);

        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

int store_write(const char *run_dir, const char *name, const char *text)
{
    char path[PATH_TEXT], fresh[PATH_TEXT];
    int r;

    if (snprintf(path, sizeof(path), "%s/%s", run_dir, name) >= (int)sizeof(path) ||
        snprintf(fresh, sizeof(fresh), "%s/.%s", run_dir, name) >= (int)sizeof(fresh))
        return -ENAMETOOLONG;
    r = write_whole(fresh, text);
    if (r == 0 && rename(fresh, path) < 0)
        r = -errno;
    if (r < 0)
        unlink(fresh);
    return r;
}

int store_save(const struct store *store, const struct pod *pod)
{
    _cleanup_message_ cJSON *record = record_of(store, pod);
    char path[PATH_TEXT], fresh[PATH_TEXT];
    _cleanup_free_ char *text = record ? cJSON_Print(record) : NULL;
    int r;

    if (!text)
        return -ENOMEM;
    snprintf(path, sizeof(path), "%s/%s.json", store->directory, pod->uid);
    snprintf(fresh, sizeof(fresh), "%s/.%s.fresh", store->directory, pod->uid);
    r = write_whole(fresh, text);
    if (r == 0 && rename(fresh, path) < 0)
        r = -errno;
    if (r < 0) {
        unlink(fresh);
        return log_error_errno(r, "cannot remember a pod\tpod=\"%s/%s\" file=%s", pod->namespace, pod->name,
                               path);
    }
    if (store->changed)
        store->changed(store->data);
    return 0;
}

int store_remove(const struct store *store, const char *uid)
{
    char path[PATH_TEXT];

    snprintf(path, sizeof(path), "%s/%s.json", store->directory, uid);
    if (unlink(path) < 0 && errno != ENOENT)
        return log_error_errno(errno, "cannot remove the record of a pod\tfile=%s", path);
    if (store->changed)
        store->changed(store->data);
    return 0;
}

static int parse_attachments(const cJSON *record, struct pod *pod)
{
    const cJSON *run, *runs = cJSON_GetObjectItemCaseSensitive(record, "attachments");

    cJSON_ArrayForEach (run, runs) {
        const char *network = "", *ifname;
        int r = message_text(run, "ifname", 64, &ifname);

        if (r < 0 || (message_text(run, "network", 255, &network) == -EBADMSG))
            return -EBADMSG;
        r = pod_attach(pod, network, ifname);
        if (r < 0)
            return r;
    }
    return 0;
}

/* "" and no key: nobody said it. */
static int parse_policy(const cJSON *record, enum outbound_policy *ret)
{
    const char *text = "";

    if (message_text(record, "outboundPolicy", 64, &text) == -EBADMSG)
        return -EBADMSG;
    *ret = OUTBOUND_UNSAID;
    return *text && outbound_policy_parse(text, ret) < 0 ? -EBADMSG : 0;
}

static int parse_switch(const cJSON *record, const char *key, enum direct_switch *ret)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(record, key);

    if (item && !cJSON_IsBool(item))
        return -EBADMSG;
    *ret = !item ? DIRECT_UNSAID : cJSON_IsTrue(item) ? DIRECT_ON : DIRECT_OFF;
    return 0;
}

/* What is not there, as in records of an agent that did not know it: nobody said it. */
static int parse_direct(const cJSON *record, struct direct_switches *ret)
{
    const char *text = "";

    if (parse_switch(record, "directOutside", &ret->outside) < 0 ||
        parse_switch(record, "directInbound", &ret->inbound) < 0 ||
        message_text(record, "sameNode", 64, &text) == -EBADMSG)
        return -EBADMSG;
    ret->same_node = SAME_NODE_UNSAID;
    return *text && same_node_parse(text, &ret->same_node) < 0 ? -EBADMSG : 0;
}

static int parse_times(const cJSON *record, struct pod *pod)
{
    uint64_t added = 0, enrolled = 0, took = 0, ending = 0;

    pod->added = 0;

    if (message_u64(record, "addedAt", &added) == -EBADMSG ||
        message_u64(record, "added", &pod->added) == -EBADMSG ||
        message_u64(record, "enrolledAt", &enrolled) == -EBADMSG ||
        message_u64(record, "enrolMicroseconds", &took) == -EBADMSG ||
        message_u64(record, "endingAt", &ending) == -EBADMSG)
        return -EBADMSG;
    pod->added_at = (int64_t)added;
    enrollment_of(pod)->enrolled_at = (int64_t)enrolled;
    enrollment_of(pod)->took_microseconds = took;
    enrollment_of(pod)->ending_at = (int64_t)ending;
    return 0;
}

static int parse_into(const cJSON *record, struct pod *pod)
{
    const char *container, *netns, *state, *account = "";
    uint64_t cookie, generation;
    int r;

    if (message_name(record, "containerId", &container) < 0 ||
        message_text(record, "netns", 4095, &netns) < 0 || message_u64(record, "cookie", &cookie) < 0 ||
        message_text(record, "state", 32, &state) < 0 ||
        message_number(record, "generation", UINT32_MAX, &generation) < 0 ||
        message_text(record, "serviceAccount", MESSAGE_NAME_MAX, &account) == -EBADMSG)
        return -EBADMSG;
    if (message_addresses(record, "ips", pod->addresses, BRUMA_POD_ADDRESSES, &pod->addresses_len) < 0)
        return -EBADMSG;
    enrollment_of(pod)->state = pod_state_from_name(state);
    if (pod->enrollment->state == POD_STATE_COUNT)
        return -EBADMSG;
    enrollment_of(pod)->generation = (uint32_t)generation;
    enrollment_of(pod)->captured_since_start =
        cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(record, "capturedSinceStart"));
    enrollment_of(pod)->bypass_inbound =
        cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(record, "bypassInbound"));
    snprintf(enrollment_of(pod)->service_account, sizeof(pod->enrollment->service_account), "%s", account);
    r = parse_policy(record, &enrollment_of(pod)->outbound_policy);
    if (r == 0)
        r = parse_direct(record, &enrollment_of(pod)->direct);
    if (r == 0)
        r = parse_times(record, pod);
    if (r < 0)
        return r;
    r = parse_attachments(record, pod);
    if (r < 0)
        return r;
    return pod_set_sandbox(pod, container, netns, cookie);
}

int store_parse(const struct store *store, const char *text, size_t len, struct pods *pods, struct pod **ret)
{
    _cleanup_message_ cJSON *record = NULL;
    const char *uid, *namespace, *name, *boot;
    struct pod *pod;
    int r = message_parse(text, len, &record);

    if (r < 0)
        return r;
    if (message_text(record, "bootId", 63, &boot) < 0)
        return -EBADMSG;
    if (strcmp(boot, store->boot_id))
        return -ESTALE;
    if (message_name(record, "uid", &uid) < 0 || message_name(record, "namespace", &namespace) < 0 ||
        message_name(record, "name", &name) < 0)
        return -EBADMSG;
    if (pods_by_uid(pods, uid))
        return -EBADMSG;
    r = enroll_pod_new(pods, uid, namespace, name, &pod);
    if (r < 0)
        return r;
    r = parse_into(record, pod);
    if (r < 0) {
        enroll_pod_free(pod);
        return r;
    }
    *ret = pod;
    return 0;
}

static int load_one(const struct store *store, int directory, const char *file, struct pods *pods)
{
    _cleanup_free_ char *text = NULL;
    struct pod *pod = NULL;
    char expected[MESSAGE_NAME_MAX + 8];
    size_t len = 0;
    int r = file_read(directory, file, O_NOFOLLOW, RECORD_MAX, &text, &len);

    if (r == 0)
        r = store_parse(store, text, len, pods, &pod);
    if (r < 0 || !pod)
        return r < 0 ? r : -EBADMSG;
    snprintf(expected, sizeof(expected), "%s.json", pod->uid);
    if (strcmp(expected, file)) {
        enroll_pod_free(pod);
        return -EBADMSG;
    }
    return 0;
}

int store_load(const struct store *store, struct pods *pods)
{
    DIR *dir = opendir(store->directory);
    struct dirent *e;
    int count = 0;

    if (!dir)
        return -errno;
    while ((e = readdir(dir))) {
        int r;

        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        r = *e->d_name == '.' ? -ESTALE : load_one(store, dirfd(dir), e->d_name, pods);
        if (r == 0) {
            count++;
            continue;
        }
        if (r == -ENOMEM)
            break;
        if (r != -ESTALE)
            log_error_errno(r, "a pod's record cannot be used and is removed\tfile=%s/%s", store->directory,
                            e->d_name);
        unlinkat(dirfd(dir), e->d_name, 0);
    }
    closedir(dir);
    return e ? -ENOMEM : count;
}

void store_wipe(const struct store *store)
{
    DIR *dir = opendir(store->directory);
    struct dirent *e;

    if (!dir)
        return;
    while ((e = readdir(dir))) {
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            unlinkat(dirfd(dir), e->d_name, 0);
    }
    closedir(dir);
    rmdir(store->directory);
}
