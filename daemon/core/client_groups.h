/* The groups of clients. They are looked up when a client asks for an export, if any list has ever
 * wanted groups, and for those who are connected when the list of their export comes to want them.
 * So whoever is connected to an export whose list has groups has had its own looked up. */
#ifndef CORE_CLIENT_GROUPS_H
#define CORE_CLIENT_GROUPS_H

#include "daemon/core/registry.h"

/* Takes the lock, with the client's groups looked up if any list may want them. The connection's
 * own thread, in the handshake; may block. */
void client_lock_with_groups(Client *client);

/* Without the lock, before the export gets a list that wants groups: looks up those of its clients
 * that have not been (anew: of all), until the deadline; then they are unknown. May block: never
 * on the main thread. */
void export_look_up_groups(Registry *registry, Export *export, bool anew, gint64 deadline);

#endif
