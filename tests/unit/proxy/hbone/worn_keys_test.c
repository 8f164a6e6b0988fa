/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of TLS 1.2, which are never new: once they have protected enough the tunnel is drained. */
#include <criterion/criterion.h>

#include "lib/tls_policy.h"
#include "proxy/hbone/tunnel_internal.h"
#include "tests/unit/proxy/hbone/move_scene.h"

#define ENOUGH (1u << 23)

TestSuite(worn_keys, .init = scene_begin, .fini = scene_end, .timeout = 60);

/* of what the tunnel sends, or receives */
static void use_up(bool sent)
{
    struct record_key *ours = sent ? &scene.tunnel->tls.seal : &scene.tunnel->tls.open,
                      *theirs = sent ? &scene.tls.open : &scene.tls.seal;

    cr_assert(ours->suite->tls12 && ours->sequence == theirs->sequence);
    ours->sequence = theirs->sequence = ENOUGH;
}

static void wears_out(bool serves, bool sent, bool moves)
{
    unsigned goaways = serves ? 2 : 1; /* the first one of a server refuses nothing */
    char error[400];
    int32_t id;

    cr_assert(tls_policy_choose("", true, "", error, sizeof(error)) == 0, "%s", error);
    move_scene_begin(serves, NULL, 0);
    id = scene_open();
    scene_settle();
    tunnel_look_at_peer(scene.tunnel);
    scene_settle();
    cr_expect_eq(scene.goaways, 0);
    use_up(sent);
    if (moves)
        scene_hand_over();
    tunnel_look_at_peer(scene.tunnel);
    scene_settle();
    cr_expect_eq(scene.goaways, goaways, "%u", scene.goaways);
    cr_expect(serves || tunnel_capacity(scene.tunnel) == 0);
    tunnel_look_at_peer(scene.tunnel);
    scene_peer_sends(id, 1000, false);
    scene_app_sends(id, 1000);
    scene_settle();
    cr_expect_eq(scene.goaways, goaways, "said once");
    cr_expect(scene_stream(id)->app_received == 1000 && scene_stream(id)->peer_received == 1000);
    move_scene_end();
}

WORLD_TEST(worn_keys, of_a_server)
{
    wears_out(true, true, false);
}

WORLD_TEST(worn_keys, of_a_server_that_receives)
{
    wears_out(true, false, false);
}

WORLD_TEST(worn_keys, of_a_client)
{
    wears_out(false, true, false);
}

WORLD_TEST(worn_keys, of_a_client_that_receives)
{
    wears_out(false, false, false);
}

WORLD_TEST(worn_keys, of_one_that_has_moved)
{
    wears_out(true, false, true);
}
