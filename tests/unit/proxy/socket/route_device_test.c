/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/socket/route_device.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct mnl_socket *netlink;
static bool is_local; /* by the last answer */

static unsigned device_of(const char *text)
{
    struct endpoint to = {.port = 443};

    cr_assert(addr_parse(text, &to.addr) == 0);
    return route_device(&netlink, &to, &is_local);
}

/* A namespace with lo and one other device, which leads to two networks. */
static void setup(void)
{
    cr_assert(unshare(CLONE_NEWNET) == 0, "this test needs root: %s", strerror(errno));
    cr_assert(
        system("ip link set lo up && ip link add out type veth peer name other && ip link set other up && ip "
               "link set out up && "
               "ip address add 192.0.2.1/24 dev out && ip address add 2001:db8::1/64 dev out nodad && "
               "ip route add 198.51.100.0/24 via 192.0.2.9 && ip route add unreachable 203.0.113.0/24 && "
               "ip -6 route add 2001:db8:1::/64 via 2001:db8::9") == 0);
}

static void teardown(void)
{
    route_device_close(&netlink);
}

TestSuite(route_device, .init = setup, .fini = teardown, .timeout = 30);

Test(route_device, where_a_device_leads)
{
    unsigned out = if_nametoindex("out");

    cr_assert(out > 1);
    cr_expect(device_of("192.0.2.7") == out);
    cr_expect(device_of("198.51.100.1") == out);
    cr_expect(device_of("2001:db8::7") == out);
    cr_expect(device_of("2001:db8:1::1") == out);
}

Test(route_device, what_stays_in_the_namespace_or_has_no_way)
{
    cr_expect(device_of("127.0.0.1") == 0);
    cr_expect(device_of("192.0.2.1") == 0 && is_local, "an address of its own");
    cr_expect(device_of("192.0.2.7") != 0 && !is_local);
    cr_expect(device_of("::1") == 0);
    cr_expect(device_of("2001:db8::1") == 0 && is_local);
    cr_expect(device_of("2001:db8::7") != 0 && !is_local);
    cr_expect(device_of("203.0.113.1") == 0 && !is_local);
    cr_expect(device_of("100.64.0.1") == 0);
    cr_expect(device_of("fd00::1") == 0);
    cr_expect(device_of("192.0.2.7") == if_nametoindex("out"), "an error is no answer to the next question");
}

Test(route_device, a_broken_socket_is_given_up_and_the_next_question_has_another)
{
    unsigned out = device_of("192.0.2.7");

    cr_assert(out > 1);
    close(mnl_socket_get_fd(netlink));
    cr_expect(device_of("192.0.2.7") == 0);
    cr_expect(netlink == NULL);
    cr_expect(device_of("192.0.2.7") == out);
}
