/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 as RFC 4648 has it, and blanks and newlines in between. */
#ifndef CTL_KUBE_BASE64_H
#define CTL_KUBE_BASE64_H

#include <stddef.h>

/* *ret is the caller's, with a NUL behind; its length without that in *ret_len. 0, -EBADMSG or -ENOMEM. */
int base64_decode(const char *text, char **ret, size_t *ret_len);
/* The text for bytes, with a NUL; buf has room for 4 * ((len + 2) / 3) + 1 bytes. */
void base64_encode(const unsigned char *bytes, size_t len, char *buf);

#endif
