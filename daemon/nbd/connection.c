/* One NBD connection: a thread from accept to close. It owns the socket; others may only tell it to
 * stop, which shuts the socket down under its blocking calls. */
#include "daemon/nbd/handshake.h"
#include "daemon/nbd/request.h"
#include "daemon/nbd/server.h"
#include "daemon/nbd/tls_session.h"
#include "daemon/nbd/transmission.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Only what is touched is backed by memory. The user database, which allow lists ask, may run
 * modules that want some. */
#define STACK_BYTES (256u << 10)
/* A client that sends nothing for so long gives its buffers back. */
#define IDLE_SECONDS 1
/* How long to wait for the client to have read the last answers: closing a TCP socket with unread
 * bytes in it resets the connection, and takes answers on their way with it. */
#define LINGER_MS    500
#define LINGER_BYTES (1u << 20) /* from one who goes on sending instead */

/* How many connections in the handshake give way when there is no descriptor or thread for one
 * more: it is lost, the next ones are not. */
#define SHORT_BATCH 64

typedef struct {
    NbdServer *server;
    Client *client;
    Stream stream;
    int wake_fd;
    _Atomic int stop;          /* NBD_STOP_*; it only rises */
    _Atomic bool transmitting; /* past the handshake */
    PoolAccount account;
    TcpPeer peer;
} Connection;

/* A ClientStopFunction. In the handshake a client still hears ERR_SHUTDOWN, so the socket stays
 * open both ways; either this sees `transmitting` or the thread sees `stop`. */
static void connection_stop(gpointer data, ClientStop how)
{
    Connection *connection = data;
    int wanted = how == CLIENT_STOP_HARD ? NBD_STOP_HARD : NBD_STOP_DRAIN;
    int now = atomic_load(&connection->stop);
    while (now < wanted && !atomic_compare_exchange_weak(&connection->stop, &now, wanted))
        ;
    if (wanted == NBD_STOP_HARD)
        shutdown(connection->stream.fd, SHUT_RDWR);
    else if (atomic_load(&connection->transmitting))
        shutdown(connection->stream.fd, SHUT_RD);
    eventfd_write(connection->wake_fd, 1);
}

static void connection_give_up(gpointer data)
{
    connection_stop(data, CLIENT_STOP_HARD);
}

/* A ClientWakeFunction. */
static void connection_wake(gpointer data)
{
    eventfd_write(((Connection *)data)->wake_fd, 1);
}

static void report_features(Client *client, const NbdSession *session, TlsSession *tls)
{
    g_autoptr(GPtrArray) features = g_ptr_array_new();
    if (tls != NULL) {
        g_ptr_array_add(features, "tls");
        g_ptr_array_add(features, (gpointer)tls_session_version(tls));
    }
    switch (session->mode) {
    case NBD_MODE_SIMPLE:
        break;
    case NBD_MODE_STRUCTURED:
        g_ptr_array_add(features, "structured-replies");
        break;
    case NBD_MODE_EXTENDED:
        g_ptr_array_add(features, "extended-headers");
        break;
    }
    if (session->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD)
        g_ptr_array_add(features, "block-status-payload");
    for (size_t i = 0; i < session->contexts.count; i++)
        g_ptr_array_add(features, session->contexts.items[i]->name);
    g_ptr_array_add(features, NULL);
    client_set_features(client, (const char *const *)features->pdata);
}

static void transmit(Connection *connection, NbdSession *session)
{
    struct timeval idle = {.tv_sec = IDLE_SECONDS};
    report_features(connection->client, session, connection->stream.tls);
    setsockopt(connection->stream.fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof idle);
    atomic_store(&connection->transmitting, true);
    nbd_transmit(&connection->stream, connection->client, session, &connection->account,
                 connection->wake_fd, &connection->stop);
}

static void linger(int fd)
{
    gint64 deadline = g_get_monotonic_time() + LINGER_MS * 1000;
    size_t left_bytes = LINGER_BYTES;
    char away[4096];
    shutdown(fd, SHUT_WR);
    while (left_bytes > 0) {
        ssize_t n = recv(fd, away, sizeof away, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return;
        left_bytes -= n > 0 ? MIN((size_t)n, left_bytes) : 0;
        gint64 left = deadline - g_get_monotonic_time();
        if (left <= 0)
            return;
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        if (n < 0)
            poll(&readable, 1, (int)(left / 1000 + 1));
    }
}

static void connection_free(Connection *connection)
{
    dead_peers_forget(nbd_server_dead_peers(connection->server), &connection->peer);
    close(connection->stream.fd);
    close(connection->wake_fd);
    client_unref(connection->client);
    g_free(connection);
}

static void *connection_main(void *data)
{
    Connection *connection = data;
    NbdServer *server = connection->server;
    NbdSession session;

    if (nbd_handshake(&connection->stream, connection->client, connection->wake_fd, &session)) {
        transmit(connection, &session);
        nbd_session_clear(&session);
    }
    client_closed(connection->client);
    stream_end_tls(&connection->stream);
    if (atomic_load(&connection->stop) != NBD_STOP_HARD && nbd_server_linger_begin(server)) {
        linger(connection->stream.fd);
        nbd_server_linger_end(server);
    }
    connection_free(connection);
    nbd_server_leave(server);
    return NULL;
}

/* Signals are the main thread's. SIGPIPE above all: splice has no flag against it. */
static int start_thread(Connection *connection)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_t thread;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(&thread, &attributes, connection_main, connection);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return result;
}

bool nbd_server_serve(NbdServer *server, int fd, const char *listener, const char *address,
                      const char *identity, char **ret_text)
{
    Connection *connection = g_new0(Connection, 1);
    connection->server = server;
    connection->stream = (Stream){.fd = fd, .account = &connection->account};
    connection->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pool_account_init(&connection->account, nbd_server_pool(server));
    if (connection->wake_fd < 0) {
        *ret_text = g_strdup_printf("no file descriptor is left: %s", g_strerror(errno));
        close(fd);
        g_free(connection);
        nbd_server_make_way(server, SHORT_BATCH);
        return false;
    }
    connection->client = client_new(nbd_server_registry(server), listener, address, identity,
                                    connection_stop, connection, ret_text);
    if (connection->client == NULL) {
        connection_free(connection);
        return false;
    }
    client_set_wake(connection->client, connection_wake);
    connection->peer = (TcpPeer){.fd = fd, .give_up = connection_give_up, .data = connection};
    dead_peers_watch(nbd_server_dead_peers(server), &connection->peer);

    nbd_server_enter(server);
    int result = start_thread(connection);
    if (result != 0) {
        *ret_text = g_strdup_printf("cannot start a thread: %s", g_strerror(result));
        client_closed(connection->client);
        connection_free(connection);
        nbd_server_leave(server);
        nbd_server_make_way(server, SHORT_BATCH);
        return false;
    }
    return true;
}
