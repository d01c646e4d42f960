/* Who may do what on the control socket: rules from nbdd's --access, matched against the peer's
 * credentials (SO_PEERCRED, SO_PEERGROUPS) when it connects.
 *
 * Root and the daemon's own uid are admin. Others get the highest level of the rules that match
 * them, and `read` without any. (Who can connect at all is up to the socket's mode and group.) */
#ifndef CONTROL_ACCESS_H
#define CONTROL_ACCESS_H

#include "schema/api.h"
#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    pid_t pid;
    uid_t uid;
    gid_t *groups; /* primary and supplementary ones */
    size_t group_count;
} PeerCredentials;

typedef struct AccessRules AccessRules;

AccessRules *access_rules_new(void); /* no rules */
void access_rules_free(AccessRules *rules);

/* text: LEVEL=USER, LEVEL=UID or LEVEL=@GROUP (a name or a number). Names are looked up here and
 * now. *error (G_OPTION_ERROR) says what is wrong. */
bool access_rules_add(AccessRules *rules, const char *text, GError **error);

ApiAccess access_rules_match(const AccessRules *rules, const PeerCredentials *peer);

/* Of the process at the other end of a connected Unix socket, as it was when it connected. */
bool peer_credentials_read(int fd, PeerCredentials *ret_peer, GError **error);
void peer_credentials_clear(PeerCredentials *peer);

#endif
