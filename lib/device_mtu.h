/* SPDX-License-Identifier: Apache-2.0 */
/* The size of packets that this machine sends to others. */
#ifndef LIB_DEVICE_MTU_H
#define LIB_DEVICE_MTU_H

#define DEVICE_NAME_LEN 16 /* bytes of a device's name with its NUL: IFNAMSIZ */

/* MTU of the device of the IPv4 default route, or else of the IPv6 one, in the caller's network namespace;
 * bytes, and its name in device. 0: there is none, or it is not known, and device is "". */
unsigned device_mtu(char device[DEVICE_NAME_LEN]);

#endif
