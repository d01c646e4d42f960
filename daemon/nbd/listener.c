#include "daemon/nbd/listener.h"
#include "daemon/core/refs.h"
#include "daemon/nbd/address.h"
#include "daemon/nbd/server.h"
#include "daemon/nbd/socket.h"
#include <errno.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

/* At one go: the main loop has other things to do. */
#define ACCEPT_BATCH 64
/* When no file descriptor is left: accepting again at once would only burn time. It is shorter
 * while connections that sit in the handshake can give way. */
#define PAUSE_MS       100
#define PAUSE_SHORT_MS 5
/* A splice of cached data wants room for all of it (1 MiB); small ones cost a wakeup each. */
#define UNIX_SEND_BUFFER (1 << 20)

struct NbdListener {
    RefCount refs; /* the owner's, and those of attached sources */
    NbdServer *server;
    char *name;
    char *address;
    bool tcp;
    /* Guards what follows; held while clients are accepted, so that none is after a stop. Above
     * the registry's lock. */
    pthread_mutex_t lock;
    ListenSockets sockets;
    GSource *sources[LISTEN_SOCKETS];
    bool starved; /* no file descriptor was left: said once, until there is one again */
    unsigned pause_ms;
};

typedef struct {
    NbdListener *listener;
    unsigned index; /* of the socket */
} Watch;

static void watch(NbdListener *listener, unsigned index, bool pause);

static void listener_unref(NbdListener *listener)
{
    if (!refs_drop(&listener->refs))
        return;
    pthread_mutex_destroy(&listener->lock);
    g_free(listener->name);
    g_free(listener->address);
    g_free(listener);
}

static void watch_free(gpointer data)
{
    Watch *own = data;
    listener_unref(own->listener);
    g_free(own);
}

/* --- accepting --- */

static void set_int(int fd, int level, int option, int value)
{
    setsockopt(fd, level, option, &value, sizeof value);
}

/* A peer that died without a word is noticed by these probes while nothing is said, and by
 * dead_peers.h while something is. */
static void set_up_tcp(int fd, const Limits *limits)
{
    int seconds = (int)limits->dead_peer_seconds;
    int probes = 3, interval = MAX(seconds / 6, 1);
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, MAX(seconds - probes * interval, 1));
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval);
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, probes);
}

static void set_up_unix(int fd)
{
    int size = UNIX_SEND_BUFFER;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) != 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static char *unix_identity(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
        return NULL;
    return g_strdup_printf("unix:%u", (unsigned)peer.uid);
}

static void welcome(NbdListener *listener, int fd, const struct sockaddr_storage *peer)
{
    g_autofree char *address = NULL, *identity = NULL, *text = NULL;
    if (listener->tcp) {
        set_up_tcp(fd, nbd_server_limits(listener->server));
        address = address_of_peer(peer);
        identity = address_identity(peer);
    } else {
        set_up_unix(fd);
        identity = unix_identity(fd);
    }
    if (!nbd_server_serve(listener->server, fd, listener->name,
                          address ? address : listener->address, identity, &text))
        g_info("listener %s: a client was refused: %s", listener->name, text);
}

/* With the lock held. False: accepting should pause. */
static bool accept_some(NbdListener *listener, int fd)
{
    for (unsigned i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t length = sizeof peer;
        int client = accept4(fd, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC);
        if (client >= 0) {
            listener->starved = false;
            welcome(listener, client, &peer);
            continue;
        }
        switch (errno) {
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            if (!listener->starved)
                g_warning("listener %s cannot accept clients: %s", listener->name,
                          g_strerror(errno));
            listener->starved = true;
            listener->pause_ms =
                nbd_server_make_way(listener->server, ACCEPT_BATCH) > 0 ? PAUSE_SHORT_MS : PAUSE_MS;
            return false;
        case EAGAIN:
            return true;
        default: /* the client has gone before it was accepted, and the like */
            break;
        }
    }
    return true;
}

static gboolean ready(gint fd, GIOCondition condition, gpointer data)
{
    Watch *own = data;
    NbdListener *listener = own->listener;
    gboolean go_on = G_SOURCE_REMOVE;
    pthread_mutex_lock(&listener->lock);
    if (listener->sockets.count > 0) {
        go_on = accept_some(listener, fd);
        if (!go_on)
            watch(listener, own->index, true);
    }
    pthread_mutex_unlock(&listener->lock);
    return go_on;
}

static gboolean paused(gpointer data)
{
    Watch *own = data;
    NbdListener *listener = own->listener;
    pthread_mutex_lock(&listener->lock);
    if (listener->sockets.count > 0)
        watch(listener, own->index, false);
    pthread_mutex_unlock(&listener->lock);
    return G_SOURCE_REMOVE;
}

/* With the lock held: accepts on this socket from now on, or after a pause. */
static void watch(NbdListener *listener, unsigned index, bool pause)
{
    Watch *own = g_new0(Watch, 1);
    own->listener = listener;
    own->index = index;
    refs_take(&listener->refs);

    GSource *source;
    if (pause) {
        source = g_timeout_source_new(listener->pause_ms);
        g_source_set_callback(source, paused, own, watch_free);
    } else {
        source = g_unix_fd_source_new(listener->sockets.fds[index], G_IO_IN);
        g_source_set_callback(source, G_SOURCE_FUNC(ready), own, watch_free);
    }
    g_clear_pointer(&listener->sources[index], g_source_unref);
    listener->sources[index] = source;
    g_source_attach(source, NULL);
}

/* --- life --- */

NbdListener *nbd_listener_start(NbdServer *server, const NbdListenerOptions *options,
                                GError **error)
{
    Address address;
    ListenSockets sockets;
    uint16_t port;
    if (!address_parse(options->address, &address, error))
        return NULL;
    if (!listen_sockets_open(&address, &sockets, &port, error)) {
        address_clear(&address);
        return NULL;
    }
    NbdListener *listener = g_new0(NbdListener, 1);
    refs_init(&listener->refs);
    pthread_mutex_init(&listener->lock, NULL);
    pthread_mutex_lock(&listener->lock);
    listener->server = server;
    listener->name = g_strdup(options->name);
    listener->address = address_format(&address, port);
    listener->tcp = address.kind == ADDRESS_TCP;
    listener->sockets = sockets;
    for (unsigned i = 0; i < sockets.count; i++)
        watch(listener, i, false);
    pthread_mutex_unlock(&listener->lock);
    address_clear(&address);
    return listener;
}

const char *nbd_listener_address(const NbdListener *listener)
{
    return listener->address;
}

void nbd_listener_stop(NbdListener *listener)
{
    if (listener == NULL)
        return;
    pthread_mutex_lock(&listener->lock);
    /* Before the sockets go: the loop must not watch what another file may be by then. */
    for (unsigned i = 0; i < LISTEN_SOCKETS; i++) {
        if (listener->sources[i] == NULL)
            continue;
        g_source_destroy(listener->sources[i]);
        g_clear_pointer(&listener->sources[i], g_source_unref);
    }
    listen_sockets_close(&listener->sockets);
    pthread_mutex_unlock(&listener->lock);
    listener_unref(listener);
}

bool nbd_address_check(const char *address, GError **error)
{
    Address parsed;
    if (!address_parse(address, &parsed, error))
        return false;
    address_clear(&parsed);
    return true;
}
