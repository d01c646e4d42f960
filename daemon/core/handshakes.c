#include "daemon/core/handshakes.h"
#include "daemon/core/client_state.h"
#include <arpa/inet.h>
#include <string.h>

struct HandshakePeer {
    HandshakeRank *rank;
    char *key;
    GQueue clients; /* oldest first; links are the clients' own */
};

static void peer_free(gpointer data)
{
    HandshakePeer *peer = data;
    g_free(peer->key);
    g_free(peer);
}

static void rank_init(HandshakeRank *rank)
{
    rank->peers = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, peer_free);
}

void handshakes_init(Handshakes *handshakes)
{
    rank_init(&handshakes->strangers);
    rank_init(&handshakes->known);
}

void handshakes_clear(Handshakes *handshakes)
{
    g_clear_pointer(&handshakes->strangers.peers, g_hash_table_unref);
    g_clear_pointer(&handshakes->known.peers, g_hash_table_unref);
}

/* Whoever has one IPv6 address has 2^64 of them. */
static char *peer_key(const char *identity)
{
    struct in6_addr address;
    if (identity && g_str_has_prefix(identity, "ip:") &&
        inet_pton(AF_INET6, identity + 3, &address) == 1 && !IN6_IS_ADDR_V4MAPPED(&address)) {
        char text[INET6_ADDRSTRLEN];
        memset(address.s6_addr + 8, 0, 8);
        if (inet_ntop(AF_INET6, &address, text, sizeof(text)))
            return g_strconcat("ip:", text, "/64", NULL);
    }
    return g_strdup(identity ? identity : "");
}

static void enter(HandshakeRank *rank, Client *client, const char *identity)
{
    g_autofree char *key = peer_key(identity);
    HandshakePeer *peer = g_hash_table_lookup(rank->peers, key);
    if (!peer) {
        peer = g_new0(HandshakePeer, 1);
        peer->rank = rank;
        peer->key = g_steal_pointer(&key);
        g_queue_init(&peer->clients);
        g_hash_table_insert(rank->peers, peer->key, peer);
    }
    client->place = (HandshakePlace){.peer = peer, .link = {.data = client}};
    g_queue_push_tail_link(&peer->clients, &client->place.link);
    rank->count++;
}

void handshakes_enter(Handshakes *handshakes, Client *client, const char *identity)
{
    enter(&handshakes->strangers, client, identity);
}

void handshakes_prove(Handshakes *handshakes, Client *client, const char *identity)
{
    if (!client->place.peer)
        return;
    handshakes_leave(handshakes, client);
    enter(&handshakes->known, client, identity);
}

void handshakes_leave(Handshakes *handshakes, Client *client)
{
    HandshakePeer *peer = client->place.peer;
    if (!peer)
        return;
    g_queue_unlink(&peer->clients, &client->place.link);
    client->place.peer = NULL;
    peer->rank->count--;
    if (peer->clients.length == 0)
        g_hash_table_remove(peer->rank->peers, peer->key);
}

Client *handshakes_first_to_go(const Handshakes *handshakes)
{
    const HandshakeRank *strangers = &handshakes->strangers, *known = &handshakes->known;
    const HandshakeRank *rank = known->count > strangers->count ? known : strangers;
    guint most = 0;
    Client *first = NULL;
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, rank->peers);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const HandshakePeer *peer = value;
        Client *oldest = peer->clients.head->data;
        /* Numbers of clients rise: the lowest has been here longest. */
        if (peer->clients.length > most ||
            (peer->clients.length == most && oldest->id < first->id)) {
            most = peer->clients.length;
            first = oldest;
        }
    }
    return first;
}
