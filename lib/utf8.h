/* SPDX-License-Identifier: Apache-2.0 */
/* Characters of texts that come from outside. */
#ifndef LIB_UTF8_H
#define LIB_UTF8_H

#include <stddef.h>

/* Bytes of the well-formed UTF-8 character that begins here, 0 if there is none within limit bytes. NUL
 * ends the string. */
size_t utf8_character(const char *string, size_t limit);

#endif
