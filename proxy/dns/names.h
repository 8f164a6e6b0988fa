/* SPDX-License-Identifier: Apache-2.0 */
/* Which service a name means to a pod, and at which addresses: contract section 11. Reader's side. */
#ifndef PROXY_DNS_NAMES_H
#define PROXY_DNS_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/addr.h"
#include "proxy/state/state.h"

#define NAME_LEN 256 /* of a name as text, with the NUL; a longer one is no name */

/* Who asks. All strings but preferred_namespace ("" : none) are needed; they stay the caller's. */
struct names_asker {
    const char *namespace, *network;
    const char *domain;              /* of the cluster, "cluster.local" */
    const char *preferred_namespace; /* decides between services of one hostname */
    bool ipv6;                       /* AAAA has answers at all */
    const char *const *search;       /* domains, NULL at the end; NULL: those that Kubernetes gives a pod */
};

/* How a name was understood. */
enum names_form {
    NAMES_ASKED,    /* as it stands */
    NAMES_EXPANDED, /* as a short form: web, web.shop, web.shop.svc */
    NAMES_SEARCHED, /* with a search domain of the pod behind it: db.example.com.shop.svc.cluster.local */
};

/* Why a name that the mesh knows has no address of a family. */
enum names_empty {
    NAMES_HAS_ADDRESSES,
    NAMES_OTHER_FAMILY,  /* the service is of the other family alone, by its ipFamilies */
    NAMES_IPV6_OFF,      /* the proxy's IPV6_ENABLED=false */
    NAMES_OTHER_NETWORK, /* it has some, and they are those of other networks */
    NAMES_NO_ADDRESSES,  /* it has none of that family */
};

/* A service of that name that has nothing to say to the pod. */
struct names_passed_over {
    const struct service *service; /* NULL: there is none; valid as in names_found */
    bool hidden;                   /* it may be seen in its own namespace alone; else: it has no address */
};

struct names_found {
    const struct service *service; /* valid until the reader's next quiescent state */
    enum names_form form;
    bool wildcard;           /* the service's hostname is *.something */
    char stripped[NAME_LEN]; /* NAMES_SEARCHED: the name without the search domain */
    struct addr *addresses;  /* to be freed by names_release() */
    size_t addresses_len;    /* 0: the name is known, and has no address of that family: */
    enum names_empty empty;  /* why */
};

/*
 * name: in lower case, without the dot at its end. ipv6: AAAA is asked for, else A. 1: found; 0: the mesh
 * knows no such name, and nothing is written; -ENOMEM. Reader's thread.
 */
int names_find(const struct state *state, const struct names_asker *asker, const char *name, bool ipv6,
               struct names_found *ret);
/* The same, 1, 0 or -ENOMEM, and for who wants to know why a name is not found the first service that is
 * passed over. *ret_passed_over is always written. */
int names_explain(const struct state *state, const struct names_asker *asker, const char *name, bool ipv6,
                  struct names_found *ret, struct names_passed_over *ret_passed_over);
/* Frees the addresses. */
void names_release(struct names_found *found);

#endif
