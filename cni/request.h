/* SPDX-License-Identifier: Apache-2.0 */
/* One call of the runtime: environment and stdin, checked (contract 14.1, 14.4). */
#ifndef CNI_REQUEST_H
#define CNI_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* CNI_COMMAND. */
enum cni_command { CNI_ADD, CNI_DEL, CNI_CHECK, CNI_GC, CNI_STATUS, CNI_VERSION };

/* Codes of error results (contract 14.3). */
enum cni_code {
    CNI_OK = 0,
    CNI_INCOMPATIBLE_VERSION = 1,
    CNI_UNSUPPORTED_FIELD = 2,
    CNI_BAD_ENVIRONMENT = 4,
    CNI_IO_FAILURE = 5,
    CNI_DECODE_FAILURE = 6,
    CNI_INVALID_CONFIG = 7,
    CNI_TRY_AGAIN = 11,
    CNI_NOT_AVAILABLE = 50,
    CNI_CAPTURE_BROKEN = 100, /* ours: CHECK found the pod's capture broken */
};

/* What the plugin answers with when it fails; zeroed at first. */
struct cni_error {
    enum cni_code code;
    char message[256], details[256];
    bool unreachable; /* no agent has answered at all */
};

/* Who has it clears it (cni_request_clear()). The texts of the environment are the environment's. */
struct cni_request {
    enum cni_command command;
    const char *container_id, *netns, *ifname; /* "" where the command has none */
    char *pod_name, *pod_namespace, *pod_uid;  /* from CNI_ARGS; "" if absent */
    char *text;                                /* stdin */
    json_t *config;                            /* owned */
    const char *version, *network;             /* point into config; version "0.1.0" if absent */
    const char *previous;                      /* raw text of prevResult inside text, or NULL */
    size_t previous_len;

    /* this plugin's own keys */
    const char *run_dir, *log_level;
    bool status_gate;
    double timeout_seconds;
};

#define CNI_VERSIONS "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"
#define CNI_LATEST   "1.1.0"

/* Whether version is one of CNI_VERSIONS. */
bool cni_version_known(const char *version);

/* Fills the request from the environment and text, which it takes, also on failure (malloc'd,
 * NUL-terminated; len without the NUL). 0, or -EINVAL: *error says what and which. */
int cni_request_parse(char *text, size_t len, struct cni_request *ret, struct cni_error *error);
/* Frees what it owns, and empties it. */
void cni_request_clear(struct cni_request *request);

/* Whether the configuration leaves the pod's namespace alone. */
bool cni_request_excluded(const struct cni_request *request);

/* Addresses of prevResult, as they stand there ("10.0.0.2/24"), in a new array, empty if there are
 * none. The caller owns it; NULL without memory. */
json_t *cni_request_addresses(const struct cni_request *request);

#endif
