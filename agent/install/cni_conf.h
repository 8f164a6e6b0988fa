/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of a CNI network configuration, and our entry in it. All other bytes stay as they are: what is put
 * in can be taken out again without a trace.
 */
#ifndef AGENT_INSTALL_CNI_CONF_H
#define AGENT_INSTALL_CNI_CONF_H

#include <stdbool.h>
#include <stddef.h>

#define CNI_PLUGIN_TYPE "bruma-cni"

enum cni_conf_kind {
    CNI_CONF_BAD,    /* not JSON, or nothing that a runtime loads */
    CNI_CONF_LIST,   /* with a list of plugins */
    CNI_CONF_SINGLE, /* of one plugin */
};

/* why: what is wrong with a bad one. */
enum cni_conf_kind cni_conf_kind(const char *text, size_t len, char *why, size_t why_size);

/* Is the last plugin of the list ours, with exactly this entry, and no other one ours? */
bool cni_conf_has(const char *text, size_t len, const char *entry);

/* The list with the entry as its last plugin; an earlier one of ours is taken out. The caller frees
 * *ret (*ret_len without a NUL, which is there). 0, -EBADMSG or -ENOMEM. */
int cni_conf_add(const char *text, size_t len, const char *entry, char **ret, size_t *ret_len);

/* The list without any entry of ours: 1 if there was one, 0 if not (then nothing is allocated), or an error
 * as above. */
int cni_conf_remove(const char *text, size_t len, char **ret, size_t *ret_len);

/* A list of one plugin and our entry, out of a configuration of one plugin. As cni_conf_add(): *ret is
 * allocated. */
int cni_conf_wrap(const char *text, size_t len, const char *entry, char **ret, size_t *ret_len);

/* Whether it is a list that was made of another file, with an entry that says so: it is ours as a
 * whole. */
bool cni_conf_is_copy(const char *text, size_t len);
/* The entry of such a list. NULL without memory; the caller frees it. */
char *cni_conf_copy_entry(const char *entry, const char *made_of);

#endif
