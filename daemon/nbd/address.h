/* Addresses of listeners, as users write them: "unix:PATH", "tcp:HOST:PORT", "tcp:[V6]:PORT".
 * HOST is a name, an IPv4 address or * for every address; port 0 takes a free port. */
#ifndef NBD_ADDRESS_H
#define NBD_ADDRESS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

typedef enum { ADDRESS_UNIX, ADDRESS_TCP } AddressKind;

typedef struct {
    AddressKind kind;
    char *path; /* ADDRESS_UNIX: absolute, short enough for a socket */
    char *host; /* ADDRESS_TCP: without brackets; "*" is every address */
    uint16_t port;
} Address;

/* False: STORAGE_ERROR_INVALID, with what an address looks like. A relative path counts from the
 * working directory. */
bool address_parse(const char *text, Address *ret_address, GError **error);
void address_clear(Address *address);
/* As address_parse reads it, with this port for a TCP address. */
char *address_format(const Address *address, uint16_t port);

/* A connected peer: "tcp:192.0.2.1:1234", "tcp:[2001:db8::1]:1234". An IPv4 address that came
 * through an IPv6 socket is written as the IPv4 address it is. NULL for any other family. */
char *address_of_peer(const struct sockaddr_storage *peer);
/* Its identity: "ip:192.0.2.1". NULL for any other family. */
char *address_identity(const struct sockaddr_storage *peer);

#endif
