/* SPDX-License-Identifier: Apache-2.0 */
/* What control groups and the CNI cache say of a pod and its network namespace. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "agent/netns/netns_find.h"
#include "lib/message.h"

#define WEB_UID "6a2305d4-300d-48df-9e70-b8bdd3f2234a"

static int cgroup(const char *text, char uid[129], char container[254])
{
    strcpy(uid, "unset");
    strcpy(container, "unset");
    return netns_cgroup_parse(text, uid, container);
}

Test(netns_find, control_groups)
{
    static const struct {
        const char *text, *uid, *container;
    } good[] = {
        {"0::/kubepods/besteffort/pod" WEB_UID "/abc123\n", WEB_UID, "abc123"},
        {"0::/kubepods.slice/kubepods-burstable.slice/"
         "kubepods-burstable-pod6a2305d4_300d_48df_9e70_b8bdd3f2234a.slice/"
         "cri-containerd-abc123.scope\n",
         WEB_UID, "abc123"},
        {"0::/kubelet/kubepods/pod0123456789abcdef0123456789abcdef/crio-abc123\n",
         "0123456789abcdef0123456789abcdef", "abc123"},
        {"12:pids:/kubepods/pod" WEB_UID "/abc\n1:name=systemd:/kubepods/pod" WEB_UID "/abc\n0::/\n", WEB_UID,
         "abc"},
        {"0::/kubepods/pod" WEB_UID "/abc/pod11111111-2222-3333-4444-555555555555/def\n", WEB_UID, "abc"},
        {"0::/kubepods/pod" WEB_UID, WEB_UID, ""},
    };
    static const char *const bad[] = {
        "", "0::/\n", "0::/user.slice\n", "0::/kubepods/pod1234/abc\n", "garbage",
        "0:", "::", "0::pod" WEB_UID "\n", "0::/kubepods/pod" WEB_UID "0/abc\n",
        "0::/kubepods/xpod" WEB_UID "/abc\n",
        /* hierarchies that disagree */
        "2:cpu:/kubepods/pod" WEB_UID "/abc\n0::/kubepods/pod11111111-2222-3333-4444-555555555555/abc\n",
        "2:cpu:/kubepods/pod" WEB_UID "/abc\n0::/kubepods/pod" WEB_UID "/def\n"};
    char uid[129], container[254];

    for (size_t i = 0; i < array_size(good); i++) {
        cr_expect_eq(cgroup(good[i].text, uid, container), 0, "%s", good[i].text);
        cr_expect_str_eq(uid, good[i].uid);
        cr_expect_str_eq(container, good[i].container);
    }
    for (size_t i = 0; i < array_size(bad); i++)
        cr_expect_eq(cgroup(bad[i], uid, container), -ENOENT, "%s", bad[i]);
}

static int cache(const char *text, char uid[129], char path[512], char container[254])
{
    return netns_cache_parse(text, strlen(text), uid, path, container);
}

Test(netns_find, files_of_the_cache)
{
    char uid[129], path[512], container[254];

    cr_assert_eq(cache("{\"kind\":\"cniCacheV1\",\"containerId\":\"c1\",\"netns\":\"/var/run/netns/a\","
                       "\"cniArgs\":[[\"K8S_POD_UID\",\"" WEB_UID "\"]],\"result\":{}}",
                       uid, path, container),
                 0);
    cr_expect_str_eq(uid, WEB_UID);
    cr_expect_str_eq(path, "/var/run/netns/a");
    cr_expect_str_eq(container, "c1");
    cr_assert_eq(
        cache(
            "{\"kind\":\"cniCacheV1\",\"containerId\":\"c1\",\"cniArgs\":[[\"A\"],7,[\"K8S_POD_UID\",\"u\"]],"
            "\"result\":{\"interfaces\":[{\"name\":\"v\"},{\"name\":\"e\",\"sandbox\":\"/run/netns/b\"}]}}",
            uid, path, container),
        0);
    cr_expect_str_eq(path, "/run/netns/b", "older libraries");
}

Test(netns_find, wrong_files_of_the_cache)
{
    static const struct {
        const char *text;
        int result;
    } wrong[] = {
        {"", -EBADMSG},
        {"[]", -EBADMSG},
        {"{\"kind\":\"cniCacheV2\",\"containerId\":\"c\"}", -EBADMSG},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"../c\"}", -EBADMSG},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"c\",\"netns\":\"/n\"}", -ENOENT},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"c\",\"cniArgs\":[[\"K8S_POD_UID\",\"u\"]]}", -ENOENT},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"c\",\"netns\":\"n\",\"cniArgs\":[[\"K8S_POD_UID\",\"u\"]"
         "]}",
         -EBADMSG},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"c\",\"netns\":7,\"cniArgs\":{\"K8S_POD_UID\":\"u\"}}",
         -ENOENT},
    };
    char uid[129], path[512], container[254];

    for (size_t i = 0; i < array_size(wrong); i++)
        cr_expect_eq(cache(wrong[i].text, uid, path, container), wrong[i].result, "%s", wrong[i].text);
}
