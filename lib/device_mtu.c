/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/device_mtu.h"

#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "lib/cleanup.h"

/* "eth0 00000000 0100000A 0003 0 0 0 00000000": destination and mask are 0. */
static bool is_default_v4(const char *line, char device[DEVICE_NAME_LEN])
{
    unsigned destination, mask;

    return sscanf(line, "%15s %x %*x %*x %*d %*d %*d %x", device, &destination, &mask) == 3 && !destination &&
           !mask;
}

/* Destination, prefix length, ..., device. The kernel's route for what is unreachable is at lo. */
static bool is_default_v6(const char *line, char device[DEVICE_NAME_LEN])
{
    unsigned prefix;
    char destination[33];

    return sscanf(line, "%32s %x %*s %*x %*s %*x %*x %*x %*x %15s", destination, &prefix, device) == 3 &&
           !prefix && strspn(destination, "0") == 32 && strcmp(device, "lo") != 0;
}

static bool find(const char *path, bool (*is_default)(const char *, char *), char device[DEVICE_NAME_LEN])
{
    _cleanup_file_ FILE *f = fopen(path, "re");
    char line[512];

    while (f && fgets(line, sizeof(line), f)) {
        if (is_default(line, device))
            return true;
    }
    device[0] = '\0';
    return false;
}

unsigned device_mtu(char device[DEVICE_NAME_LEN])
{
    _cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {};

    if (fd >= 0 && (find("/proc/thread-self/net/route", is_default_v4, device) ||
                    find("/proc/thread-self/net/ipv6_route", is_default_v6, device))) {
        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
        if (ioctl(fd, SIOCGIFMTU, &request) == 0 && request.ifr_mtu > 0)
            return (unsigned)request.ifr_mtu;
    }
    device[0] = '\0';
    return 0;
}
