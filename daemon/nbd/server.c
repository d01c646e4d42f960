#include "daemon/nbd/server.h"
#include "daemon/core/registry.h"
#include <errno.h>
#include <pthread.h>
#include <time.h>

/* Connections that linger at once: who comes and goes faster than that loses the last answer. */
#define LINGERERS 256

struct NbdServer {
    Registry *registry;
    BufferPool *pool;
    DeadPeers *dead_peers;
    pthread_mutex_t lock;
    pthread_cond_t left; /* the last thread has left */
    unsigned threads, lingerers;
};

NbdServer *nbd_server_new(Registry *registry)
{
    const Limits *limits = registry_limits(registry);
    NbdServer *server = g_new0(NbdServer, 1);
    pthread_condattr_t clock;
    server->registry = registry;
    server->pool = pool_new(limits->total_bytes, limits->client_bytes);
    server->dead_peers = dead_peers_new((unsigned)limits->dead_peer_seconds);
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&server->left, &clock);
    pthread_condattr_destroy(&clock);
    return server;
}

bool nbd_server_wait(NbdServer *server, gint64 deadline)
{
    struct timespec until = {
        .tv_sec = deadline / G_USEC_PER_SEC,
        .tv_nsec = deadline % G_USEC_PER_SEC * 1000,
    };
    int result = 0;
    pthread_mutex_lock(&server->lock);
    while (server->threads > 0 && result != ETIMEDOUT)
        result = pthread_cond_timedwait(&server->left, &server->lock, &until);
    bool all = server->threads == 0;
    pthread_mutex_unlock(&server->lock);
    return all;
}

void nbd_server_free(NbdServer *server)
{
    if (server == NULL)
        return;
    pthread_mutex_lock(&server->lock);
    while (server->threads > 0)
        pthread_cond_wait(&server->left, &server->lock);
    pthread_mutex_unlock(&server->lock);
    pool_free(server->pool);
    dead_peers_free(server->dead_peers);
    pthread_cond_destroy(&server->left);
    pthread_mutex_destroy(&server->lock);
    g_free(server);
}

unsigned nbd_server_make_way(NbdServer *server, unsigned most)
{
    return clients_make_way(server->registry, most);
}

const Limits *nbd_server_limits(NbdServer *server)
{
    return registry_limits(server->registry);
}

BufferPool *nbd_server_pool(NbdServer *server)
{
    return server->pool;
}

Registry *nbd_server_registry(NbdServer *server)
{
    return server->registry;
}

DeadPeers *nbd_server_dead_peers(NbdServer *server)
{
    return server->dead_peers;
}

void nbd_server_enter(NbdServer *server)
{
    pthread_mutex_lock(&server->lock);
    server->threads++;
    pthread_mutex_unlock(&server->lock);
}

void nbd_server_leave(NbdServer *server)
{
    pthread_mutex_lock(&server->lock);
    if (--server->threads == 0)
        pthread_cond_broadcast(&server->left);
    pthread_mutex_unlock(&server->lock);
}

bool nbd_server_linger_begin(NbdServer *server)
{
    pthread_mutex_lock(&server->lock);
    bool room = server->lingerers < LINGERERS;
    if (room)
        server->lingerers++;
    pthread_mutex_unlock(&server->lock);
    return room;
}

void nbd_server_linger_end(NbdServer *server)
{
    pthread_mutex_lock(&server->lock);
    server->lingerers--;
    pthread_mutex_unlock(&server->lock);
}
