/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/enroll/store.h"

#include "agent/enroll/member.h"

static struct store store;
static struct pods pods;
static char directory[64];

static void setup(void)
{
    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    cr_assert(store_open(directory, "boot-1", &store) == 0);
    pods_init(&pods);
}

static void teardown(void)
{
    enroll_pods_free(&pods);
    store_wipe(&store);
    rmdir(directory);
}

TestSuite(store, .init = setup, .fini = teardown);

static struct pod *example(void)
{
    struct pod *pod;

    cr_assert(enroll_pod_new(&pods, "uid-1", "shop", "web-0", &pod) == 0);
    cr_assert(pod_set_sandbox(pod, "abc", "/run/netns/with \"quotes\" and \\", UINT64_MAX) == 0);
    cr_assert(addr_parse("10.0.0.1", &pod->addresses[0]) == 0);
    cr_assert(addr_parse("fd00::1", &pod->addresses[1]) == 0);
    pod->addresses_len = 2;
    enrollment_of(pod)->state = POD_LEAVING;
    enrollment_of(pod)->generation = UINT32_MAX;
    enrollment_of(pod)->captured_since_start = true;
    enrollment_of(pod)->ending_at = 1790000000;
    pod->added_at = 1700000000;
    pod->added = 123456789012;
    strcpy(enrollment_of(pod)->service_account, "web");
    enrollment_of(pod)->outbound_policy = OUTBOUND_REGISTRY_ONLY;
    enrollment_of(pod)->direct =
        (struct direct_switches){.outside = DIRECT_OFF, .inbound = DIRECT_ON, .same_node = SAME_NODE_RELAY};
    cr_assert(pod_attach(pod, "net-a", "eth0") == 0);
    cr_assert(pod_attach(pod, "", "net1") == 0);
    return pod;
}

Test(store, what_is_saved_is_loaded)
{
    struct pods loaded;
    struct pod *pod;

    cr_assert(store_save(&store, example()) == 0);
    cr_assert(store_save(&store, pods_by_uid(&pods, "uid-1")) == 0, "a record is replaced");
    pods_init(&loaded);
    cr_assert(store_load(&store, &loaded) == 1);
    pod = pods_by_uid(&loaded, "uid-1");
    cr_assert(pod != NULL);
    cr_expect(strcmp(pod->namespace, "shop") == 0 && strcmp(pod->name, "web-0") == 0);
    cr_expect(strcmp(pod->container_id, "abc") == 0);
    cr_expect(strcmp(pod->netns_path, "/run/netns/with \"quotes\" and \\") == 0);
    cr_expect(pod->cookie == UINT64_MAX);
    cr_expect(pod->addresses_len == 2 && addr_is_v4(&pod->addresses[0]) && !addr_is_v4(&pod->addresses[1]));
    cr_expect(pod->enrollment->state == POD_LEAVING);
    cr_expect(pod->enrollment->generation == UINT32_MAX);
    cr_expect(pod->enrollment->captured_since_start);
    cr_expect(pod->enrollment->ending_at == 1790000000);
    cr_expect(pod->added_at == 1700000000 && pod->added == 123456789012);
    cr_expect(strcmp(pod->enrollment->service_account, "web") == 0);
    cr_expect(pod->enrollment->outbound_policy == OUTBOUND_REGISTRY_ONLY);
    cr_expect(pod->enrollment->direct.outside == DIRECT_OFF && pod->enrollment->direct.inbound == DIRECT_ON);
    cr_expect(pod->enrollment->direct.same_node == SAME_NODE_RELAY);
    cr_expect(!pod_detach(pod, "eth0"));
    cr_expect(pod_detach(pod, "net1"));
    enroll_pods_free(&loaded);
}

Test(store, records_of_another_boot_are_removed)
{
    struct store other;
    struct pods loaded;

    cr_assert(store_save(&store, example()) == 0);
    cr_assert(store_open(directory, "boot-2", &other) == 0);
    pods_init(&loaded);
    cr_expect(store_load(&other, &loaded) == 0);
    cr_expect(list_empty(&loaded.list));
    cr_expect(store_load(&store, &loaded) == 0, "the record is gone for good");
}

Test(store, the_boot_id_is_the_kernels)
{
    struct store real;

    cr_assert(store_open(directory, NULL, &real) == 0);
    cr_expect(strlen(real.boot_id) == 36, "%s", real.boot_id);
}

Test(store, a_removed_record_stays_away)
{
    cr_assert(store_save(&store, example()) == 0);
    cr_expect(store_remove(&store, "uid-1") == 0);
    cr_expect(store_remove(&store, "uid-1") == 0);
    cr_expect(store_load(&store, &pods) == 0);
}

static void write_file(const char *name, const char *text, size_t len)
{
    char path[1024];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", store.directory, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd >= 0 && write(fd, text, len) == (ssize_t)len);
    close(fd);
}

static size_t read_record(char *buf, size_t size)
{
    char path[1024];
    size_t len;
    FILE *f;

    snprintf(path, sizeof(path), "%s/uid-1.json", store.directory);
    f = fopen(path, "re");
    cr_assert(f != NULL);
    len = fread(buf, 1, size, f);
    fclose(f);
    return len;
}

Test(store, a_cut_record_is_refused_at_every_length)
{
    static char text[8192];
    size_t len;

    cr_assert(store_save(&store, example()) == 0);
    len = read_record(text, sizeof(text));
    for (size_t cut = 0; cut < len; cut++) {
        char *copy = malloc(cut ? cut : 1);
        struct pods loaded;
        struct pod *pod;

        memcpy(copy, text, cut);
        pods_init(&loaded);
        cr_expect(store_parse(&store, copy, cut, &loaded, &pod) == -EBADMSG, "length %zu", cut);
        cr_expect(list_empty(&loaded.list));
        free(copy);
    }
}

Test(store, bad_files_do_not_stop_the_good_ones)
{
    static char huge[128 * 1024];

    cr_assert(store_save(&store, example()) == 0);
    enroll_pods_free(&pods);
    memset(huge, ' ', sizeof(huge));
    write_file("huge.json", huge, sizeof(huge));
    write_file("empty.json", "", 0);
    write_file("garbage.json", "\x00\xff{[", 4);
    write_file(".uid-2.fresh", "{", 1);
    cr_expect(store_load(&store, &pods) == 1);
    cr_expect(pods_by_uid(&pods, "uid-1") != NULL);
    enroll_pods_free(&pods);
    cr_expect(store_load(&store, &pods) == 1, "the bad ones were removed, the good one was not");
}

Test(store, a_record_under_another_name_is_not_believed)
{
    static char text[8192];
    size_t len;

    cr_assert(store_save(&store, example()) == 0);
    len = read_record(text, sizeof(text));
    store_remove(&store, "uid-1");
    enroll_pods_free(&pods);
    write_file("uid-7.json", text, len);
    cr_expect(store_load(&store, &pods) == 0);
    cr_expect(list_empty(&pods.list));
}

Test(store, hostile_values_are_refused)
{
    static const char *const bad[] = {
        "{\"op\":\"pod\",\"bootId\":\"boot-1\",\"uid\":\"../../etc/"
        "passwd\",\"namespace\":\"a\",\"name\":\"b\"}",
        "{\"op\":\"pod\",\"bootId\":\"boot-1\",\"uid\":\"u\",\"namespace\":\"a/b\",\"name\":\"b\"}",
        "{\"op\":\"pod\",\"bootId\":\"boot-1\",\"uid\":\"u\",\"namespace\":\"a\",\"name\":\"b\","
        "\"containerId\":\"c\","
        "\"netns\":\"/n\",\"cookie\":5,\"state\":\"outside\",\"generation\":1}",
        "{\"op\":\"pod\",\"bootId\":\"boot-1\",\"uid\":\"u\",\"namespace\":\"a\",\"name\":\"b\","
        "\"containerId\":\"c\","
        "\"netns\":\"/n\",\"cookie\":\"5\",\"state\":\"asleep\",\"generation\":1}",
        "{\"op\":\"pod\",\"bootId\":\"boot-1\",\"uid\":\"u\",\"namespace\":\"a\",\"name\":\"b\","
        "\"containerId\":\"c\","
        "\"netns\":\"/n\",\"cookie\":\"5\",\"state\":\"outside\",\"generation\":-1}",
        "{\"op\":\"pod\",\"bootId\":\"boot-1\",\"uid\":\"u\",\"namespace\":\"a\",\"name\":\"b\","
        "\"containerId\":\"c\","
        "\"netns\":\"/"
        "n\",\"cookie\":\"5\",\"state\":\"outside\",\"generation\":1,\"attachments\":[{\"ifname\":7}]}",
    };

    for (size_t i = 0; i < array_size(bad); i++) {
        struct pod *pod;

        cr_expect(store_parse(&store, bad[i], strlen(bad[i]), &pods, &pod) == -EBADMSG, "accepted: %s",
                  bad[i]);
        cr_expect(list_empty(&pods.list));
    }
}
