/* Connections in the handshake: who gives way when there is no room for one more.
 *
 * A newcomer is never refused for the sake of connections that only sit there: the oldest one goes,
 * of the peer (an address, a user) that has the most. So a flood from one place drives itself out,
 * and one from everywhere leaves a client the time that it takes to go once round.
 *
 * Those who have proven who they are count by that, and among themselves. While they are no more
 * than half, one of the others goes: so strangers drive out nobody who is known, and whoever is
 * known leaves half of the room to strangers.
 *
 * All of it under the registry's lock. */
#ifndef CORE_HANDSHAKES_H
#define CORE_HANDSHAKES_H

#include <glib.h>

typedef struct Client Client;
typedef struct HandshakePeer HandshakePeer;

typedef struct {
    GHashTable *peers; /* key -> HandshakePeer, those that have any */
    guint count;       /* of connections */
} HandshakeRank;

typedef struct {
    HandshakeRank strangers, known;
} Handshakes;

/* A client's place, part of it. peer NULL: it has none. */
typedef struct {
    HandshakePeer *peer;
    GList link;
} HandshakePlace;

void handshakes_init(Handshakes *handshakes);
void handshakes_clear(Handshakes *handshakes); /* nobody is in it */

/* identity: "ip:192.0.2.1", "unix:1000"; NULL counts as a peer, too. */
void handshakes_enter(Handshakes *handshakes, Client *client, const char *identity);
/* It has proven who it is: "psk:bob". Nothing changes for whoever has no place any more. */
void handshakes_prove(Handshakes *handshakes, Client *client, const char *identity);
/* It is served, was told to go, or has gone. Whoever has no place may leave. */
void handshakes_leave(Handshakes *handshakes, Client *client);
/* Who is to give way; NULL: nobody is there. */
Client *handshakes_first_to_go(const Handshakes *handshakes);

#endif
