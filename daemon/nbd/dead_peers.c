#include "daemon/nbd/dead_peers.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>

/* Looks in the time until a peer is given up, of which the last two must agree. */
#define LOOKS 6
/* A living kernel leaves a probe unanswered that comes half a second after another one (Linux:
 * tcp_invalid_ratelimit), and answers the next. */
#define LEAST_MS 2000

struct DeadPeers {
    unsigned seconds;
    pthread_mutex_t lock;
    GQueue peers;    /* links are their own */
    GSource *source; /* NULL while there are none: an idle daemon sleeps */
};

DeadPeers *dead_peers_new(unsigned seconds)
{
    DeadPeers *dead = g_new0(DeadPeers, 1);
    dead->seconds = seconds;
    pthread_mutex_init(&dead->lock, NULL);
    g_queue_init(&dead->peers);
    return dead;
}

static void end_looks(DeadPeers *dead)
{
    if (dead->source)
        g_source_destroy(dead->source);
    g_clear_pointer(&dead->source, g_source_unref);
}

void dead_peers_free(DeadPeers *dead)
{
    g_assert(dead->peers.length == 0);
    end_looks(dead);
    pthread_mutex_destroy(&dead->lock);
    g_free(dead);
}

/* Has been asked, by data or a probe, and has not answered; nor anything else for long. One that
 * was asked a moment ago looks like this, too. */
static bool is_suspect(const DeadPeers *dead, int fd)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
        return false;
    uint64_t patience = UINT64_C(1000) * dead->seconds * (LOOKS - 2) / LOOKS;
    if (info.tcpi_last_ack_recv < MAX(patience, LEAST_MS))
        return false;
    return info.tcpi_probes > 0 ||
           (info.tcpi_retransmits > 0 && info.tcpi_last_data_sent < info.tcpi_last_ack_recv);
}

static void look(const DeadPeers *dead, TcpPeer *peer)
{
    bool before = peer->suspect;
    peer->suspect = is_suspect(dead, peer->fd);
    if (!before || !peer->suspect)
        return;
    /* What is left to be sent goes with the socket. */
    struct linger none = {.l_onoff = 1};
    setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    peer->give_up(peer->data);
}

static gboolean look_at_all(gpointer data)
{
    DeadPeers *dead = data;
    gboolean go_on = G_SOURCE_CONTINUE;
    pthread_mutex_lock(&dead->lock);
    for (GList *link = dead->peers.head; link; link = link->next)
        look(dead, link->data);
    if (dead->peers.length == 0) {
        g_clear_pointer(&dead->source, g_source_unref);
        go_on = G_SOURCE_REMOVE;
    }
    pthread_mutex_unlock(&dead->lock);
    return go_on;
}

static bool is_tcp(int fd)
{
    int protocol = 0;
    socklen_t length = sizeof protocol;
    return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0 &&
           protocol == IPPROTO_TCP;
}

void dead_peers_watch(DeadPeers *dead, TcpPeer *peer)
{
    if (!is_tcp(peer->fd))
        return;
    peer->link.data = peer;
    pthread_mutex_lock(&dead->lock);
    g_queue_push_tail_link(&dead->peers, &peer->link);
    if (!dead->source) {
        dead->source = g_timeout_source_new(dead->seconds * 1000 / LOOKS);
        g_source_set_callback(dead->source, look_at_all, dead, NULL);
        g_source_attach(dead->source, NULL);
    }
    pthread_mutex_unlock(&dead->lock);
}

void dead_peers_forget(DeadPeers *dead, TcpPeer *peer)
{
    pthread_mutex_lock(&dead->lock);
    if (peer->link.data)
        g_queue_unlink(&dead->peers, &peer->link);
    peer->link.data = NULL;
    pthread_mutex_unlock(&dead->lock);
}
