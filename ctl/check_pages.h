/* SPDX-License-Identifier: Apache-2.0 */
/* Which page says what to do about a finding of `brumactl check`. */
#ifndef CTL_CHECK_PAGES_H
#define CTL_CHECK_PAGES_H

/* "docs/install.md#kernels" of a check's name, or the page of reasons of one that has none: a constant, never
 * NULL. */
const char *check_page(const char *check);

#endif
