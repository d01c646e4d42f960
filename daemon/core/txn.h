/* A transaction: mutations of disks, exports and bitmaps that happen all or not at all, at one
 * instant of the write stream. Every such method is one action; `transaction` runs several,
 * `dry_run` aborts after the checks. So a failed method leaves no trace by construction.
 *
 * begin -> actions (each checks itself against what those before it staged; on failure: abort)
 * -> commit or abort. Runs on a worker thread of the control plane: it may block on disks.
 * What is staged is seen by the same transaction alone; names it adds are reserved meanwhile. */
#ifndef CORE_TXN_H
#define CORE_TXN_H

#include "daemon/core/registry.h"
#include <glib.h>
#include <stdbool.h>

typedef struct Txn Txn;

/* deadline: g_get_monotonic_time() scale; waits for gates and for others' changes end there. */
Txn *txn_begin(Registry *registry, gint64 deadline);
Registry *txn_registry(Txn *txn);
/* Freezes the disks concerned, stores, publishes, opens, reports events. Frees txn either way. */
bool txn_commit(Txn *txn, GError **error);
void txn_abort(Txn *txn); /* undoes everything that was staged; takes NULL */

#endif
