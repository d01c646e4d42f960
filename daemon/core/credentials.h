/* Changes of the registry's credentials. New handshakes use new material at once; sessions keep
 * what they began with, so nobody who is connected notices; a client in the middle of a handshake
 * must pass both (client_enter_tls). A change that fails leaves everything as it was.
 *
 * These calls read files and the store: worker threads only. One at a time: another waits, and
 * gives up after a while (timeout). */
#ifndef CORE_CREDENTIALS_H
#define CORE_CREDENTIALS_H

#include "daemon/core/registry.h"

/* ret_credential, here and below: NULL, or for a reference to what there is then. Whoever looks for
 * it by its name may come when it has been removed again.
 *
 * same: succeed when a credential of that name has exactly this source. */
bool credentials_add(Registry *registry, const char *name, const TlsSource *source, bool same,
                     bool dry_run, Credential **ret_credential, GError **error);
/* Makes of the source that is in force the one that takes its place; false: *error says why not. */
typedef bool (*CredentialChange)(TlsSource *source, gconstpointer data, GError **error);
/* change NULL: the same files again. It is asked when all earlier changes are through, so none of
 * them is lost. When files cannot be used `problem` says why, and the old material stays in
 * force. */
bool credentials_set(Registry *registry, const char *name, CredentialChange change,
                     gconstpointer data, Credential **ret_credential, GError **error);
/* Busy while a listener uses it. */
bool credentials_remove(Registry *registry, const char *name, bool dry_run, GError **error);

/* At the start: those of the store (of StoreCredential). Files that cannot be used leave a
 * credential without material, with a problem. So do those that have not answered by the deadline,
 * until they do. */
void credentials_restore(Registry *registry, const GPtrArray *rows, gint64 deadline);
/* SIGHUP: all of them again. Failures are in `problem` and in events. */
void credentials_reload_all(Registry *registry);

#endif
