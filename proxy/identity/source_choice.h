/* SPDX-License-Identifier: Apache-2.0 */
/* Which source is a trust domain's, as the setting says: "files", "files, far.domain=ca". */
#ifndef PROXY_IDENTITY_SOURCE_CHOICE_H
#define PROXY_IDENTITY_SOURCE_CHOICE_H

#include <stdbool.h>
#include <stddef.h>

enum source_kind { SOURCE_CA, SOURCE_FILES, SOURCE_SPIRE, SOURCES };

#define SOURCE_CHOICES_MAX 32 /* trust domains */

/* Read-only once parsed. */
struct source_choice {
    struct {
        char trust_domain[256];
        enum source_kind kind;
    } items[SOURCE_CHOICES_MAX];
    size_t len;
    enum source_kind others; /* of trust domains that are not among the items */
};

/* 0, or -EINVAL with what is wrong in error. */
int source_choice_parse(const char *text, struct source_choice *ret, char *error, size_t error_size);
/* That of the trust domain, whose name ends after len bytes. */
enum source_kind source_choice_of(const struct source_choice *choice, const char *trust_domain, size_t len);
/* Whether any trust domain has it. */
bool source_choice_has(const struct source_choice *choice, enum source_kind kind);

#endif
