/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that reads a ring of the kernel: that it loses nothing, sleeps, and that there is one of it.
 * Each test has a process's reader, or two of them; a lock tells them apart although they are of one process
 * here, since each opens the file for itself. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/log.h"
#include "proxy/proxy.h"
#include "tests/unit/proxy/flows/flows_site.h"
#include "tests/unit/proxy/flows/kernel_ring.h"

#define OUTSIDE "10.9.9.9:80"

static struct kernel_ring ring;
static struct flows *first, *second;
static char run_dir[] = "/tmp/bruma-flows-XXXXXX";
static bool can;

static void setup(void)
{
    site_setup();
    log_set_filter("off");
    can = kernel_ring_new(&ring);
    if (!can)
        cr_skip("needs BPF");
    cr_assert(mkdtemp(run_dir) != NULL);
    site_proxy.settings.run_dir = run_dir;
    cr_assert(flows_start(&site_proxy, &first) == 0);
    cr_assert(flows_start(&site_proxy, &second) == 0);
    flows_pod_add(first, site_pod);
    flows_pod_add(second, site_pod);
    cr_assert(flows_take_maps(first, ring.control, ring.flows, ring.events) == 0);
    cr_assert(flows_take_maps(second, ring.control, ring.flows, ring.events) == 0);
}

static void teardown(void)
{
    char path[100];

    if (can) {
        flows_stop(&first);
        flows_stop(&second);
        kernel_ring_close(&ring);
        snprintf(path, sizeof(path), "%s/%s", run_dir, BRUMA_FLOW_LOCK);
        unlink(path);
        rmdir(run_dir);
    }
    site_teardown();
}

TestSuite(flow_reader, .init = setup, .fini = teardown);

/* The number of the first sample that begins so; 0: there is none. */
static long metric(struct flows *f, const char *sample)
{
    struct telemetry *t = flows_telemetry(f);
    char *text = NULL, line[200], *at;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    long value = 0;

    fputc('\n', out);
    telemetry_write_metrics(&t, 1, out);
    flows_write_metrics(f, out);
    fclose(out);
    snprintf(line, sizeof(line), "\n%s", sample);
    at = strstr(text, line);
    if (at) {
        at = strchr(at + 1, '\n');
        while (at[-1] >= '0' && at[-1] <= '9')
            at--;
        value = atol(at);
    }
    free(text);
    return value;
}

static long opened(struct flows *f)
{
    return metric(f, "istio_tcp_connections_opened_total{");
}

static void wait_for(struct flows *f, const char *sample, long value)
{
    for (int i = 0; i < 3000 && metric(f, sample) != value; i++)
        usleep(10000);
    cr_assert(metric(f, sample) == value, "%s is %ld instead of %ld", sample, metric(f, sample), value);
}

static void tell(unsigned first_socket, unsigned n)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    for (unsigned i = 0; i < n; i++) {
        e.socket_cookie = first_socket + i;
        while (!kernel_ring_tell(&ring, &e))
            usleep(1000);
    }
}

static void wait_for_sleep(void)
{
    for (int i = 0; i < 3000 && kernel_ring_control(&ring).polling; i++)
        usleep(10000);
    cr_assert(kernel_ring_control(&ring).polling == 0);
}

Test(flow_reader, what_is_told_before_during_and_after_it_sleeps_is_read)
{
    tell(1, 100); /* before anybody reads */
    cr_expect(opened(first) == 0);
    flows_serve(first);
    wait_for(first, "istio_tcp_connections_opened_total{", 100);
    tell(101, 50);
    wait_for(first, "istio_tcp_connections_opened_total{", 150);
    wait_for_sleep();
    tell(151, 1); /* it is woken */
    wait_for(first, "istio_tcp_connections_opened_total{", 151);
    cr_expect(metric(first, "bruma_direct_reading") == 1);
    cr_expect(metric(first, "bruma_direct_connections") == 151);
}

/* Around each time that it falls asleep events come in, by one that saw the word of before or of after. */
Test(flow_reader, it_is_never_asleep_with_something_to_read)
{
    unsigned told = 0;

    flows_serve(first);
    wait_for(first, "bruma_direct_reading", 1);
    for (int round = 0; round < 4; round++) {
        wait_for_sleep();
        tell(++told, 1);
        /* until it says again that it need not be woken no more, and while it does */
        for (int i = 0; i < 500 && kernel_ring_control(&ring).polling; i++) {
            tell(++told, 1);
            usleep(i < 20 ? 1000 : 25000);
        }
        tell(++told, 1);
    }
    wait_for(first, "istio_tcp_connections_opened_total{", told);
}

Test(flow_reader, more_than_the_ring_holds)
{
    flows_serve(first);
    tell(1, 3 * BRUMA_FLOW_RING / 128);
    wait_for(first, "istio_tcp_connections_opened_total{", 3 * BRUMA_FLOW_RING / 128);
}

Test(flow_reader, it_reads_nothing_before_pods_and_mesh_are_known_and_after_it_let_go)
{
    tell(1, 10);
    flows_refresh(first);
    cr_expect(opened(first) == 0);
    flows_serve(first);
    wait_for(first, "bruma_direct_reading", 1); /* it has read what was there when it says so */
    cr_expect(opened(first) == 10);
    flows_let_go(first);
    wait_for(first, "bruma_direct_reading", 0);
    cr_expect(kernel_ring_control(&ring).polling == 0);
    tell(11, 10);
    flows_refresh(first);
    cr_expect(opened(first) == 10);
    flows_serve(first);
    wait_for(first, "istio_tcp_connections_opened_total{", 20);
}

Test(flow_reader, there_is_one_and_the_next_goes_on_where_it_stopped)
{
    struct bruma_flow_event closed = site_event(BRUMA_FLOW_CLOSED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);
    struct bruma_flow_event lives = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    flows_serve(first);
    wait_for(first, "bruma_direct_reading", 1);
    flows_serve(second);
    tell(1, 1000);
    wait_for(first, "istio_tcp_connections_opened_total{", 1000);
    cr_expect(metric(second, "bruma_direct_reading") == 0 && opened(second) == 0);
    for (unsigned i = 1; i <= 1000; i++)
        kernel_ring_lives(&ring, i, &lives.flow);
    tell(1001, 500); /* some are the first one's, some the second's; none is both's or nobody's */
    flows_let_go(first);
    tell(1501, 500);
    wait_for(second, "bruma_direct_reading", 1);
    tell(2001, 1000);
    wait_for(second, "istio_tcp_connections_opened_total{", 3000 - opened(first));
    cr_expect(metric(first, "bruma_direct_reading") == 0);
    cr_expect(metric(first, "istio_tcp_sockets_open{") == 0);
    for (unsigned i = 1; i <= 1000; i++) {
        kernel_ring_ends(&ring, i);
        closed.socket_cookie = i;
        cr_assert(kernel_ring_tell(&ring, &closed));
    }
    wait_for(second, "istio_tcp_connections_closed_total{", 1000);
    cr_expect(metric(first, "istio_tcp_connections_closed_total{") == 0);
    flows_refresh(second);
    cr_expect(opened(first) + opened(second) == 3000);
}

/* As by SIGKILL: it neither reads what is left nor says anything. */
Test(flow_reader, the_lock_goes_with_its_holder)
{
    char path[100];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", run_dir, BRUMA_FLOW_LOCK);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    cr_assert(fd >= 0 && lockf(fd, F_TEST, 0) == 0);
    close(fd);
    flows_serve(first);
    wait_for(first, "bruma_direct_reading", 1);
    flows_serve(second);
    tell(1, 10);
    wait_for(first, "istio_tcp_connections_opened_total{", 10);
    cr_expect(metric(second, "bruma_direct_reading") == 0);
    flows_stop(&first);
    wait_for(second, "bruma_direct_reading", 1);
    tell(11, 10);
    wait_for(second, "istio_tcp_connections_opened_total{", 10);
}

Test(flow_reader, lost_events_are_counted_once_by_whoever_reads)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_FAILED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);
    long lost = 0;

    for (int i = 0; i < 10000; i++)
        lost += !kernel_ring_tell(&ring, &e);
    cr_assert(lost > 0);
    flows_serve(first);
    wait_for(first, "istio_tcp_connections_failed_total{", 10000 - lost);
    wait_for(first, "bruma_direct_lost_events_total", lost);
    wait_for(first, "bruma_direct_reading", 1);
    flows_let_go(first);
    flows_serve(second);
    wait_for(second, "bruma_direct_reading", 1);
    cr_expect(metric(second, "bruma_direct_lost_events_total") == 0);
}

Test(flow_reader, one_whose_end_was_lost_does_not_stay_for_ever)
{
    struct bruma_flow_event e = site_event(BRUMA_FLOW_OPENED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    flows_serve(first);
    kernel_ring_lives(&ring, 1, &e.flow);
    tell(1, 2); /* the second is in the map no more */
    wait_for(first, "bruma_direct_connections", 2);
    for (int i = 0; i < 100 && metric(first, "bruma_direct_connections") != 1; i++) {
        flows_refresh(first);
        usleep(50000);
    }
    wait_for(first, "bruma_direct_connections", 1);
    wait_for(first, "bruma_direct_ends_lost_total", 1);
    wait_for(first, "istio_tcp_connections_closed_total{", 1);
}

/* The agent gives them again when it was started anew. */
Test(flow_reader, the_same_maps_again_change_nothing_and_others_are_taken)
{
    struct kernel_ring other;
    struct bruma_flow_event e = site_event(BRUMA_FLOW_FAILED, BRUMA_DIRECT_OUTSIDE, OUTSIDE, 0);

    flows_serve(first);
    tell(1, 10);
    wait_for(first, "bruma_direct_connections", 10);
    cr_assert(flows_take_maps(first, ring.control, ring.flows, ring.events) == 0);
    tell(11, 10);
    wait_for(first, "bruma_direct_connections", 20);
    cr_assert(kernel_ring_new(&other));
    tell(21, 10);
    cr_assert(kernel_ring_tell(&other, &e));
    cr_assert(flows_take_maps(first, other.control, other.flows, other.events) == 0);
    wait_for(first, "istio_tcp_connections_failed_total{", 1);
    cr_expect(opened(first) == 31);
    kernel_ring_close(&other);
}

Test(flow_reader, without_a_reader_nothing_is_asked)
{
    struct flows *none = NULL;

    flows_serve(none);
    flows_let_go(none);
    flows_refresh(none);
    flows_pod_add(none, site_pod);
    flows_pod_remove(none, site_pod);
    cr_expect(flows_take_maps(none, -1, -1, -1) == 0);
    cr_expect(flows_telemetry(none) == NULL);
    cr_expect(!flows_note(none, NULL, NULL, NULL));
    flows_stop(&none);
    cr_expect(flows_take_maps(first, -1, -1, -1) < 0);
}
