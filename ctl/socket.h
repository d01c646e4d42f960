/* The stream to the daemon: one JSON text a line in both directions, with a bound on the waiting.
 */
#ifndef CTL_SOCKET_H
#define CTL_SOCKET_H

#include <glib.h>
#include <stdbool.h>

typedef struct Socket Socket;

/* The socket to use: given (--socket) if not NULL, else NBDD_SOCKET, else nbdd's default for this
 * user. The caller frees it. */
char *socket_path(const char *given);

/* timeout_seconds bounds every single wait, this one included; 0: no bound. Errors: CTL_UNREACHABLE
 * with the path, the errno's text and what to try; CTL_TIMEOUT. */
Socket *socket_connect(const char *path, double timeout_seconds, GError **error);
void socket_close(Socket *socket);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Socket, socket_close)

/* Sends text and a newline. */
bool socket_send(Socket *socket, const char *text, GError **error);

/* The next line without its newline, or NULL with an error; it is valid until the next call.
 * A connection that ends in the middle of a line is an error, as is one that just ends. */
const char *socket_receive(Socket *socket, size_t *ret_length, GError **error);

/* Waits for a line without any bound, for streams. True when there is something to receive; false
 * without an error when nobody reads watched_fd (our output) any more. */
bool socket_wait(Socket *socket, int watched_fd, GError **error);

const char *socket_name(const Socket *socket);

#endif
