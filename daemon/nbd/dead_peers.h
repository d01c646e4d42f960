/* TCP peers that have died without a word: their host lost power, or the cable. While nothing is
 * said, the kernel's keepalive finds them. While something is under way, this does: who has not
 * acknowledged anything for so long, though he was asked, is given up.
 *
 * Not by TCP_USER_TIMEOUT, which also ends peers that are alive and do not read: a client that
 * waits for the disk it copies to, or is stopped for a while, keeps its window closed, but its
 * kernel answers when it is asked whether it still is. Who has been closed for long is asked ever
 * more rarely (Linux: every two minutes in the end), and found dead that much later. */
#ifndef NBD_DEAD_PEERS_H
#define NBD_DEAD_PEERS_H

#include <glib.h>
#include <stdbool.h>

typedef struct DeadPeers DeadPeers;

/* Of one connection, in memory of its own. */
typedef struct {
    GList link;
    int fd;
    bool suspect;
    void (*give_up)(gpointer data); /* on the main loop; must not block, nor forget the peer */
    gpointer data;
} TcpPeer;

/* seconds: how long the dead are waited for, about. Looks are on the default GLib main context. */
DeadPeers *dead_peers_new(unsigned seconds);
void dead_peers_free(DeadPeers *dead); /* no peer is watched any more */

/* Any thread. fd, give_up and data are set. Sockets that are not TCP are left alone. */
void dead_peers_watch(DeadPeers *dead, TcpPeer *peer);
/* Any thread; give_up is not called after it. Takes one that is not watched. */
void dead_peers_forget(DeadPeers *dead, TcpPeer *peer);

#endif
