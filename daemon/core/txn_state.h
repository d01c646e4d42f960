/* The inside of a transaction, for the files txn*.c alone. */
#ifndef CORE_TXN_STATE_H
#define CORE_TXN_STATE_H

#include "daemon/core/api_error.h"
#include "daemon/core/registry_state.h"
#include "daemon/core/txn.h"

/* before and after: NULL for "there is none". The same pointer: only its bitmaps change. */
typedef struct {
    DiskEntry *before, *after; /* references */
    DiskChange *change;        /* of after */
} StagedDisk;

typedef struct {
    Export *before;      /* a reference */
    ExportConfig *after; /* a reference */
    bool replaced;       /* it was removed on the way: after is another export of that name */
    bool forced;         /* removal does not ask for its clients */
    bool evict;
    bool marked; /* the commit has set before->removing */
} StagedExport;

typedef struct {
    const char *event;
    char *disk, *bitmap;
} BitmapNote;

struct Txn {
    Registry *registry;
    gint64 deadline;
    GPtrArray *claims;     /* char *, in the order they were made */
    GTree *disks;          /* name -> StagedDisk; a tree, so that gates close in one order */
    GTree *exports;        /* name -> StagedExport */
    GArray *bitmap_events; /* of BitmapNote */
};

/* How long a call outside (opening a file, looking up groups) may take at the least, also for a
 * transaction that does not wait for others. */
#define TXN_CALL_LEAST G_USEC_PER_SEC

/* The staged entry, made from the registry's on the first touch; NULL if there is nothing. */
StagedDisk *txn_stage_disk(Txn *txn, const char *name);
StagedExport *txn_stage_export(Txn *txn, const char *name);

/* Calls function for every export as the transaction sees it, until it answers false. */
typedef bool (*ExportVisitor)(ExportConfig *config, gpointer data);
void txn_visit_exports(Txn *txn, ExportVisitor function, gpointer data);

void txn_release_claims(Txn *txn);
void txn_free(Txn *txn);

/* busy, at path, if a client is connected that an export's hard removal has left behind, and may
 * use the disk still; writers: that may write to it. */
bool txn_check_stragglers(Txn *txn, const DiskEntry *entry, bool writers, const char *path,
                          GError **error);

#endif
