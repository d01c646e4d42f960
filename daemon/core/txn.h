/* A transaction: mutations of disks, exports and bitmaps that happen all or not at all, at one
 * instant of the write stream. Every such method is one action; `transaction` runs several,
 * `dry_run` aborts after the checks. So a failed method leaves no trace by construction.
 *
 * begin -> claims -> actions (each checks itself against what those before it staged; on failure:
 * abort) -> commit or abort. Runs on a worker thread of the control plane: it may block on disks.
 * What is staged is seen by the same transaction alone.
 *
 * Claims. A transaction claims the names of the disks and exports it touches and so shuts out the
 * others that do; what it has checked stays true until it ends. txn_run claims all of them first,
 * in one order, so two transactions never wait for each other; what turns out to be needed later
 * is only tried (and `busy`). */
#ifndef CORE_TXN_H
#define CORE_TXN_H

#include "daemon/core/registry.h"
#include "schema/api.h"
#include <glib.h>
#include <stdbool.h>

/* Runs the actions as one transaction and fills in their results: all the dispatcher needs.
 * deadline: g_get_monotonic_time() scale; waits for gates and for others' changes end there.
 * False: nothing has happened; *ret_failed is the index of the action that was refused, or count
 * if it was the whole. Errors are API_ERRORs. */
bool txn_run(Registry *registry, ApiAction *const *actions, size_t count, gint64 deadline,
             bool dry_run, size_t *ret_failed, GError **error);

Txn *txn_begin(Registry *registry, gint64 deadline);
Registry *txn_registry(Txn *txn);
/* Freezes the disks concerned, stores, publishes, opens, reports events, ends clients that are to
 * be evicted. Frees txn either way. */
bool txn_commit(Txn *txn, GError **error);
void txn_abort(Txn *txn); /* undoes everything that was staged; takes NULL */

/* Before the first action; in the order of kinds and names, or the claim is only tried. */
typedef enum { CLAIM_DISK, CLAIM_EXPORT, CLAIM_FILE } ClaimKind;
bool txn_claim(Txn *txn, ClaimKind kind, const char *name, GError **error);

/* --- disks, as the transaction sees them; answers are the transaction's until it ends --- */

DiskEntry *txn_find_disk(Txn *txn, const char *name); /* NULL: none */
/* Opens the file. Errors have the paths /params/name and /params/path. */
bool txn_add_disk(Txn *txn, const char *name, const char *path, bool read_only, CacheMode cache,
                  bool implicit, GError **error);
bool txn_remove_disk(Txn *txn, const char *name, bool force, GError **error);
/* Whether the transaction has taken away what was there (or what it had added itself). */
bool txn_has_removed_disk(Txn *txn, const char *name);
bool txn_has_removed_export(Txn *txn, const char *name);
bool txn_has_removed_bitmap(Txn *txn, const char *disk, const char *name);

/* Sorted names of the exports that show it. */
GPtrArray *txn_list_exports_of(Txn *txn, const char *disk);
/* Sorted names of its bitmaps (char *). */
GPtrArray *txn_list_bitmaps_of(Txn *txn, DiskEntry *entry);
/* The change of its set of bitmaps, begun with the first call. path: of the parameter that named
 * the disk. */
DiskChange *txn_change_disk(Txn *txn, const char *name, const char *path, GError **error);
/* As txn_change_disk, but NULL when nothing has begun one: for looking. */
DiskChange *txn_peek_change(Txn *txn, const char *name);
/* To be posted after the commit. event is a string constant. */
void txn_note_bitmap(Txn *txn, const char *event, const char *disk, const char *bitmap);

/* --- exports --- */

ExportConfig *txn_find_export(Txn *txn, const char *name); /* NULL: none */
/* Checks all rules that a setting has to keep; takes a reference of its own. add: the name is free
 * (the disk must be there); set: it exists with the same disk. evict: after the commit, ends the
 * clients that the new setting would not admit. */
bool txn_add_export(Txn *txn, ExportConfig *config, GError **error);
bool txn_set_export(Txn *txn, ExportConfig *config, bool evict, GError **error);

typedef enum {
    REMOVE_SAFE,   /* busy with clients */
    REMOVE_FORCED, /* export_drain has marked it; whoever is left keeps only the disk */
} RemoveHow;
/* Its disk goes too if export.add made it and it has neither exports nor bitmaps left. */
bool txn_remove_export(Txn *txn, const char *name, RemoveHow how, GError **error);

/* export.remove with drain or hard, without a transaction around it: nobody attaches any more, the
 * clients end (or the deadline passes and they are ended hard), then it is removed. */
bool export_remove_ending(Registry *registry, const char *name, ClientStop how, gint64 deadline,
                          GError **error);

#endif
