/* Waiting in the handshake for an exclusive export that somebody else uses. The client has asked
 * with GO or EXPORT_NAME and says nothing until it is answered, so its thread sleeps until it is
 * woken (a slot, a changed setting, the end of the daemon), its peer goes, or the time for the
 * handshake is almost over. */
#include "daemon/nbd/haggle.h"
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

/* What is left of the handshake's time for the answer. */
#define ANSWER_TIME (G_USEC_PER_SEC / 5)

/* False: the peer is gone. */
static bool sleep_until(Haggle *haggle, gint64 end)
{
    struct pollfd fds[2] = {
        {.fd = haggle->stream->fd, .events = POLLRDHUP},
        {.fd = haggle->patience.wake_fd, .events = POLLIN},
    };
    gint64 left = MAX(end - g_get_monotonic_time(), 0);
    int ready = poll(fds, 2, (int)MIN(left / 1000 + 1, INT32_MAX));
    if (ready <= 0)
        return ready == 0 || errno == EINTR;
    if (fds[1].revents != 0) {
        eventfd_t ignored;
        eventfd_read(haggle->patience.wake_fd, &ignored);
    }
    return fds[0].revents == 0;
}

/* While it waited the eventfd has meant "ask again" too; from here on it means the end alone. */
static void settle_wakes(Haggle *haggle)
{
    eventfd_t ignored;
    eventfd_read(haggle->patience.wake_fd, &ignored);
    if (client_is_stopping(haggle->client))
        eventfd_write(haggle->patience.wake_fd, 1);
}

Admission haggle_attach(Haggle *haggle, const char *name, ExportView *view, char **text)
{
    gint64 over = haggle->patience.deadline - ANSWER_TIME;
    Admission admission = client_attach(haggle->client, name, view, text);
    if (admission != ADMIT_BUSY)
        return admission;
    bool here = true;
    while (here && admission == ADMIT_BUSY && g_get_monotonic_time() < over) {
        here = sleep_until(haggle, MIN(over, client_ask_again(haggle->client)));
        if (here)
            admission = client_attach(haggle->client, name, view, text);
    }
    if (admission == ADMIT_BUSY)
        *text = client_stop_waiting(haggle->client);
    settle_wakes(haggle);
    return admission;
}
