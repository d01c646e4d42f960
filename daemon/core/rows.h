/* Between the registry's structures and the rows of the store. */
#ifndef CORE_ROWS_H
#define CORE_ROWS_H

#include "daemon/core/disk_entry.h"
#include "daemon/core/export.h"
#include "daemon/core/listener_entry.h"
#include "storage/store.h"

bool disk_entry_put(StoreTxn *txn, const DiskEntry *entry, GError **error);
bool export_config_put(StoreTxn *txn, const ExportConfig *config, GError **error);
bool listener_entry_put(StoreTxn *txn, const ListenerEntry *entry, GError **error);

DiskEntry *disk_entry_from_row(const StoreDisk *row);
/* NULL: the row makes no sense (a damaged database); *error says why. */
ExportConfig *export_config_from_row(const StoreExport *row, GError **error);
ListenerEntry *listener_entry_from_row(const StoreListener *row);

#endif
