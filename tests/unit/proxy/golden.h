/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that a release has once written, which all later ones must read: hexadecimal text in
 * tests/data/handover, in which # begins a comment. */
#ifndef TESTS_UNIT_PROXY_GOLDEN_H
#define TESTS_UNIT_PROXY_GOLDEN_H

#include <stddef.h>
#include <stdint.h>

/* *ret_data is the caller's to free. What is not there, or is no such text, fails the test. */
void golden_read(const char *name, uint8_t **ret_data, size_t *ret_len);

#endif
