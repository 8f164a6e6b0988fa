/* SPDX-License-Identifier: Apache-2.0 */
/* One request to the API server, as libcurl sends it: its headers and options, and what comes back. Private
 * to kube_http.c, which has the client; on the loop's thread. */
#ifndef AGENT_KUBERNETES_KUBE_REQUEST_H
#define AGENT_KUBERNETES_KUBE_REQUEST_H

#include <curl/curl.h>
#include <stdbool.h>

#include "agent/kubernetes/kube_http.h"

struct kube_client {
    struct loop *loop;
    CURLM *multi;
    struct loop_timer timer; /* of libcurl */
    struct loop_timer soon;  /* some request has failed before it began */
    struct list requests;
    char *server, *ca_file, *token_file;
};

struct kube_request {
    struct list node;
    struct kube_client *client;
    CURL *easy;
    struct curl_slist *headers;
    char *body; /* that is sent */
    char *buf;  /* that has come and was not handed on */
    size_t len, size, max;
    bool begun, delivered; /* the headers of a stream have come, and were handed on */
    bool too_big, finished;
    int result;
    kube_part_fn part;
    kube_done_fn done;
    void *data;
    char error[CURL_ERROR_SIZE];
};

/* Makes its handle, with all that it needs. 0 or -ENOMEM. Any other failure, as of the token's file, becomes
 * the request's result: it has finished then. */
int kube_request_prepare(struct kube_request *request, const struct kube_call *call);
/* The status that HTTP has said; 0: none yet. */
int kube_request_status(struct kube_request *request);
/* True if what comes is to be handed on as it comes. */
bool kube_request_streams(struct kube_request *request);
/* What libcurl says of its end: 0 or -errno. */
int kube_request_result(const struct kube_request *request, CURLcode code);

#endif
