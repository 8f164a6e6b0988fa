/* SPDX-License-Identifier: Apache-2.0 */
/* Contract section 11: which service a name means. */
#include "proxy/dns/names.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "tests/unit/proxy/mesh_samples.h"

static struct state *state;
static struct names_asker asker;

static void setup(void)
{
    state = sample_state();
    asker = (struct names_asker){.namespace = "shop",
                                 .network = "",
                                 .domain = "cluster.local",
                                 .preferred_namespace = "",
                                 .ipv6 = true};
}

static void teardown(void)
{
    state_free(&state);
}

TestSuite(names, .init = setup, .fini = teardown);

/* "form[/wildcard] address ...", or "none". form: asked, expanded, searched(stripped). */
static const char *find(const char *name, bool ipv6)
{
    static const char *const forms[] = {"asked", "expanded", "searched"};
    static char text[1024];
    struct names_found found;
    int r, n;

    state_commit(state);
    r = names_find(state, &asker, name, ipv6, &found);
    cr_assert_geq(r, 0);
    if (!r)
        return "none";
    n = snprintf(text, sizeof(text), "%s%s", forms[found.form], found.wildcard ? "/wildcard" : "");
    if (found.form == NAMES_SEARCHED)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "(%s)", found.stripped);
    for (size_t i = 0; i < found.addresses_len; i++) {
        char buf[ADDR_TEXT_LEN];

        n += snprintf(text + n, sizeof(text) - (size_t)n, " %s", addr_format(&found.addresses[i], buf));
    }
    names_release(&found);
    return text;
}

#define EXPECT(name, expected) \
    cr_expect_str_eq(find(name, false), expected, "%s: %s", name, find(name, false))
#define EXPECT6(name, expected) cr_expect_str_eq(find(name, true), expected, "%s: %s", name, find(name, true))

Test(names, forms_of_a_service)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.1", "fd00::1"}, .ports = {{80, 80}});
    EXPECT("cart.shop.svc.cluster.local", "asked 10.96.0.1");
    EXPECT6("cart.shop.svc.cluster.local", "asked fd00::1");
    EXPECT("cart", "expanded 10.96.0.1");
    EXPECT("cart.shop", "expanded 10.96.0.1");
    EXPECT("cart.shop.svc", "expanded 10.96.0.1");
    EXPECT("cart.shop.svc.cluster", "none");
    EXPECT("cart.other", "none");
    EXPECT("cart.shop.svc.cluster.local.shop.svc.cluster.local",
           "searched(cart.shop.svc.cluster.local) 10.96.0.1");
    EXPECT("cart.shop.svc.cluster.local.svc.cluster.local",
           "searched(cart.shop.svc.cluster.local) 10.96.0.1");
    EXPECT("cart.shop.svc.cluster.local.cluster.local", "searched(cart.shop.svc.cluster.local) 10.96.0.1");
    EXPECT("cart.shop.svc.cluster.local.other.svc.cluster.local", "none");
    EXPECT("cart.shop.shop.svc.cluster.local", "searched(cart.shop) 10.96.0.1");
    EXPECT("", "none");
    EXPECT(".", "none");
    EXPECT("local", "none");
    EXPECT("cluster.local", "none");
    asker.namespace = "other";
    EXPECT("cart", "none");
    EXPECT("cart.shop", "expanded 10.96.0.1");
}

Test(names, another_cluster_domain)
{
    asker.domain = "corp.example";
    SERVICE(state, .name = "cart", .hostname = "cart.shop.svc.corp.example", .addresses = {"10.96.0.1"});
    EXPECT("cart", "expanded 10.96.0.1");
    EXPECT("cart.shop.svc.cluster.local", "none");
}

Test(names, wildcards_come_after_exact_names_and_the_longest_first)
{
    SERVICE(state, .name = "a", .hostname = "*.example.com", .addresses = {"10.96.0.1"});
    SERVICE(state, .name = "b", .hostname = "*.deep.example.com", .addresses = {"10.96.0.2"});
    SERVICE(state, .name = "c", .hostname = "exact.deep.example.com", .addresses = {"10.96.0.3"});
    EXPECT("x.example.com", "asked/wildcard 10.96.0.1");
    EXPECT("x.deep.example.com", "asked/wildcard 10.96.0.2");
    EXPECT("y.x.deep.example.com", "asked/wildcard 10.96.0.2");
    EXPECT("exact.deep.example.com", "asked 10.96.0.3");
    EXPECT("example.com", "none");
    EXPECT("x.example.com.svc.cluster.local", "searched/wildcard(x.example.com) 10.96.0.1");
}

Test(names, headless)
{
    SERVICE(state, .name = "set", .ports = {{80, 80}});
    SERVICE(state, .name = "entry", .hostname = "entry.example.com", .ports = {{80, 80}});
    EXPECT("set", "expanded");
    EXPECT("entry.example.com", "none");
    WORKLOAD(state, .name = "a", .addresses = {"10.1.0.1", "10.1.0.9", "fd01::1"},
             .services = {{"shop/set.shop.svc.cluster.local"}});
    WORKLOAD(state, .name = "b", .addresses = {"fd01::2"}, .services = {{"shop/set.shop.svc.cluster.local"}});
    WORKLOAD(state, .name = "far", .network = "n2", .addresses = {"10.1.0.3"},
             .services = {{"shop/set.shop.svc.cluster.local"}});
    EXPECT("set", "expanded 10.1.0.1");
    cr_expect(!strcmp(find("set", true), "expanded fd01::1 fd01::2") ||
              !strcmp(find("set", true), "expanded fd01::2 fd01::1"));
}

Test(names, addresses_are_of_the_clients_network_and_no_prefixes)
{
    SERVICE(state, .name = "two", .addresses = {"n2@10.96.0.2", "10.96.0.1"}, .ports = {{80, 80}});
    SERVICE(state, .name = "net", .hostname = "net.example.com", .addresses = {"10.0.0.0/8"});
    EXPECT("two", "expanded 10.96.0.1");
    EXPECT("net.example.com", "none");
    asker.network = "n2";
    EXPECT("two", "expanded 10.96.0.2");
    asker.network = "n3";
    EXPECT("two", "expanded");
}

Test(names, families)
{
    SERVICE(state, .name = "four", .addresses = {"10.96.0.1", "fd00::1"}, .families = 1);
    SERVICE(state, .name = "six", .addresses = {"10.96.0.1", "fd00::1"}, .families = 2);
    SERVICE(state, .name = "dual", .addresses = {"10.96.0.1", "fd00::1"}, .families = 3);
    EXPECT("four", "expanded 10.96.0.1");
    EXPECT6("four", "expanded");
    EXPECT("six", "expanded");
    EXPECT6("six", "expanded fd00::1");
    EXPECT("dual", "expanded 10.96.0.1");
    EXPECT6("dual", "expanded fd00::1");
    asker.ipv6 = false;
    EXPECT6("dual", "expanded");
    EXPECT("dual", "expanded 10.96.0.1");
}

#define ENTRY(name_, namespace_, address, ...)                                            \
    SERVICE(state, .name = name_, .namespace = namespace_, .hostname = "api.example.com", \
            .addresses = {address}, __VA_ARGS__)

Test(names, of_several_services_the_own_namespaces_the_canonical_the_preferred_the_first)
{
    ENTRY("a", "a", "10.96.0.1");
    ENTRY("b", "b", "10.96.0.2");
    EXPECT("api.example.com", "asked 10.96.0.1");
    asker.preferred_namespace = "b";
    EXPECT("api.example.com", "asked 10.96.0.2");
    ENTRY("c", "c", "10.96.0.3", .canonical = true);
    EXPECT("api.example.com", "asked 10.96.0.3");
    ENTRY("d", "shop", "10.96.0.4");
    EXPECT("api.example.com", "asked 10.96.0.4");
}

Test(names, what_is_not_visible_is_not_known)
{
    ENTRY("a", "a", "10.96.0.1", .visibility = 1);
    EXPECT("api.example.com", "none");
    asker.namespace = "a";
    EXPECT("api.example.com", "asked 10.96.0.1");
}

Test(names, long_names_do_no_harm)
{
    char name[NAME_LEN];

    for (size_t i = 0; i < sizeof(name) - 1; i++)
        name[i] = i % 2 ? '.' : 'a';
    name[sizeof(name) - 1] = '\0';
    EXPECT(name, "none");
    memset(name, 'a', sizeof(name) - 1);
    EXPECT(name, "none");
}

/* "why" of a name without addresses, or "passed over NAMESPACE/HOSTNAME: why". */
static const char *explain(const char *name, bool ipv6)
{
    static const char *const empty[] = {"has", "family", "ipv6 off", "network", "none"};
    static char text[600];
    struct names_passed_over passed;
    struct names_found found;
    int r;

    state_commit(state);
    r = names_explain(state, &asker, name, ipv6, &found, &passed);
    cr_assert_geq(r, 0);
    if (r) {
        names_release(&found);
        return empty[found.empty];
    }
    if (!passed.service)
        return "unknown";
    snprintf(text, sizeof(text), "%s/%s: %s", passed.service->namespace, passed.service->hostname,
             passed.hidden ? "hidden" : "no address");
    return text;
}

#define EXPLAIN(name, ipv6, expected) \
    cr_expect_str_eq(explain(name, ipv6), expected, "%s: %s", name, explain(name, ipv6))

Test(names, why_there_is_no_answer)
{
    SERVICE(state, .name = "four", .addresses = {"10.96.0.1", "fd00::1"}, .families = 1);
    SERVICE(state, .name = "far", .addresses = {"n2@10.96.0.2"});
    SERVICE(state, .name = "set", .ports = {{80, 80}});
    SERVICE(state, .name = "entry", .hostname = "entry.example.com", .ports = {{80, 80}});
    SERVICE(state, .name = "hidden", .namespace = "other", .hostname = "hidden.example.com",
            .addresses = {"10.96.0.3"}, .visibility = 1);
    WORKLOAD(state, .name = "a", .network = "n2", .addresses = {"10.1.0.1"},
             .services = {{"shop/set.shop.svc.cluster.local"}});
    EXPLAIN("four", false, "has");
    EXPLAIN("four", true, "family");
    EXPLAIN("far", false, "network");
    EXPLAIN("far", true, "none");
    EXPLAIN("set", false, "network");
    EXPLAIN("set", true, "none");
    EXPLAIN("entry.example.com", false, "shop/entry.example.com: no address");
    EXPLAIN("hidden.example.com", false, "other/hidden.example.com: hidden");
    EXPLAIN("hidden.example.com.shop.svc.cluster.local", false, "other/hidden.example.com: hidden");
    EXPLAIN("other.example.com", false, "unknown");
    asker.ipv6 = false;
    EXPLAIN("set", true, "ipv6 off");
}

/* Where the machine's own search list counts, that of Kubernetes does not. */
Test(names, search_domains_of_a_machine)
{
    static const char *const search[] = {"corp.example", "lab.corp.example", NULL}, *const none[] = {NULL};

    SERVICE(state, .name = "cart", .addresses = {"10.96.0.1"}, .ports = {{80, 80}});
    asker.search = search;
    EXPECT("cart.shop.svc.cluster.local", "asked 10.96.0.1");
    EXPECT("cart", "expanded 10.96.0.1");
    EXPECT("cart.shop.corp.example", "searched(cart.shop) 10.96.0.1");
    EXPECT("cart.shop.lab.corp.example", "searched(cart.shop) 10.96.0.1");
    EXPECT("cart.shop.svc.cluster.local.lab.corp.example", "searched(cart.shop.svc.cluster.local) 10.96.0.1");
    EXPECT("cart.shop.svc.cluster.local.svc.cluster.local", "none");
    EXPECT("cart.shop.corp.example.com", "none");
    asker.search = none;
    EXPECT("cart.shop", "expanded 10.96.0.1");
    EXPECT("cart.shop.corp.example", "none");
    EXPECT("cart.shop.svc.cluster.local.cluster.local", "none");
}
