/* SPDX-License-Identifier: Apache-2.0 */
/* Which map of the kernel a descriptor is of. */
#ifndef LIB_MAP_NUMBER_H
#define LIB_MAP_NUMBER_H

#include <stdbool.h>

/* True if each of the len descriptors of a is of the same map as that of b; false as well if that cannot be
 * found out. */
bool same_maps(const int *a, const int *b, int len);

#endif
