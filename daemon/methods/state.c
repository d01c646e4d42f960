/* state.backup */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/registry.h"
#include "schema/handlers.h"
#include "storage/store.h"
#include <sys/stat.h>

bool method_state_backup(Call *call, const StateBackupParams *params, StateBackupResult *result,
                         GError **error)
{
    struct stat st;
    if (params->dry_run) {
        if (lstat(params->file, &st) == 0) {
            api_error_set(error, ERROR_ALREADY_EXISTS, "/params/file", "%s exists already",
                          params->file);
            return false;
        }
    } else {
        GError *local = NULL;
        if (!store_backup(registry_store(call_registry(call)), params->file, &local)) {
            api_error_propagate(error, local, "/params/file");
            return false;
        }
    }
    result->file = g_strdup(params->file);
    return true;
}
