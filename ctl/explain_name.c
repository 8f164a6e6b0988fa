/* SPDX-License-Identifier: Apache-2.0 */
/* "Who answers this name, and why so": what the proxy knows of it, in words. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ctl/explain.h"
#include "ctl/say.h"
#include "ctl/source.h"

static const enum bruma_reason no_source = BRUMA_REASON_SOURCE_UNKNOWN;

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* The words for a key's value; "" for one that has none. */
struct words {
    const char *value, *text;
};

static const char *in_words(const struct words *words, const cJSON *object, const char *key)
{
    for (; words->value; words++) {
        if (!strcmp(words->value, text_of(object, key)))
            return words->text;
    }
    return "";
}

/* The addresses of a family, or why there are none. */
static void join(const cJSON *answer, const char *key, const char *empty, char *buf, size_t size)
{
    static const struct words why[] = {{"family", "none, the service is of the other IP family alone"},
                                       {"ipv6", "none, IPV6_ENABLED=false for the proxy"},
                                       {"network", "none, those that it has are in other networks"},
                                       {"none", "none"},
                                       {NULL, NULL}};
    const cJSON *item;
    size_t n = 0;

    buf[0] = '\0';
    cJSON_ArrayForEach (item, get(answer, key)) {
        if (n < size)
            n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? ", " : "", item->valuestring);
    }
    if (!n)
        snprintf(buf, size, "%s", in_words(why, answer, empty));
}

static void say_answer(cJSON *lines, const cJSON *answer)
{
    static const struct words forms[] = {{"asked", "the host name itself"},
                                         {"expanded", "a short form of the host name"},
                                         {"searched", "the host name with a search domain appended"},
                                         {NULL, NULL}};
    char a[512], aaaa[512];

    join(answer, "a", "aEmpty", a, sizeof(a));
    join(answer, "aaaa", "aaaaEmpty", aaaa, sizeof(aaaa));
    say(lines, "answer", NULL, "by the proxy: service %s in namespace %s", text_of(answer, "service"),
        text_of(answer, "namespace"));
    say(lines, "because", NULL, "%s%s", in_words(forms, answer, "form"),
        cJSON_IsTrue(get(answer, "wildcard")) ? ", by a wildcard" : "");
    say(lines, "addresses", NULL, "A: %s; AAAA: %s", a, aaaa);
    say(lines, "other types", NULL, "are answered by the pod's servers");
}

static void say_forwarded(cJSON *lines, const cJSON *answer)
{
    const cJSON *passed = get(answer, "passedOver");

    say(lines, "answer", NULL, "by the server that the pod queries: the query is forwarded unchanged");
    if (cJSON_IsTrue(get(answer, "off")))
        say(lines, "because", NULL, "the proxy answers no names: ISTIO_META_DNS_CAPTURE is not true for it");
    else if (!passed)
        say(lines, "because", NULL, "the mesh does not know the name, nor a wildcard or a longer form of it");
    else if (cJSON_IsTrue(get(passed, "hidden")))
        say(lines, "because", NULL, "service %s in namespace %s is visible in its own namespace alone",
            text_of(passed, "service"), text_of(passed, "namespace"));
    else
        say(lines, "because", NULL, "service %s in namespace %s has no virtual address, and is not headless",
            text_of(passed, "service"), text_of(passed, "namespace"));
}

static void say_servers(cJSON *lines, const cJSON *answer)
{
    const cJSON *server;

    cJSON_ArrayForEach (server, get(answer, "servers"))
        say(lines, "server", NULL, "%s: %.0f queries of the pod forwarded, the last one %.0f s ago",
            text_of(server, "address"), number_of(server, "queries"), number_of(server, "secondsAgo"));
    if (!cJSON_GetArraySize(get(answer, "servers")))
        say(lines, "server", NULL,
            "no query of the pod was forwarded yet; its /etc/resolv.conf names the servers");
}

/* The agent knows why; where it does not answer, nobody does. */
static void say_uncaptured(cJSON *lines, const struct place *place, const char *pod)
{
    const char *why = "";
    cJSON *pods = NULL;
    const cJSON *p;
    char name[600];

    if (agent_query(place, "pods", NULL, &pods) == CTL_OK) {
        cJSON_ArrayForEach (p, pods) {
            snprintf(name, sizeof(name), "%s/%s", text_of(p, "namespace"), text_of(p, "name"));
            if (!strcmp(name, pod))
                why = text_of(p, "dnsCapture");
        }
    }
    say(lines, "capture", NULL,
        "DNS queries of the pod over UDP are not captured%s%s: its servers answer all of them",
        *why ? ", " : "", why);
    cJSON_Delete(pods);
}

void explain_name(const struct place *place, const char *pod, const char *name, cJSON *lines)
{
    cJSON *answer;

    if (proxy_name(place, pod, name, &answer) != CTL_OK) {
        say(lines, "source", &no_source, "the proxy does not serve %s, or does not answer", pod);
        return;
    }
    if (!cJSON_IsTrue(get(answer, "captured"))) {
        say_uncaptured(lines, place, pod);
    } else if (cJSON_IsTrue(get(answer, "answered"))) {
        say_answer(lines, answer);
    } else {
        say_forwarded(lines, answer);
        say_servers(lines, answer);
    }
    cJSON_Delete(answer);
}
