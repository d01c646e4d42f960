/* bitmap.add, remove, clear, enable, disable, merge, list, show, extents */
#include "daemon/control/call.h"
#include "daemon/core/api_error.h"
#include "daemon/core/txn.h"
#include "daemon/methods/pages.h"
#include "schema/handlers.h"
#include <errno.h>

static ApiBitmapState api_state(BitmapState state)
{
    switch (state) {
    case BITMAP_RECORDING:
        return API_BITMAP_STATE_RECORDING;
    case BITMAP_DISABLED:
        return API_BITMAP_STATE_DISABLED;
    case BITMAP_INVALID:
        return API_BITMAP_STATE_INVALID;
    case BITMAP_RECOVERED:
        return API_BITMAP_STATE_RECOVERED;
    }
    g_assert_not_reached();
}

static ApiDurability api_durability(BitmapDurability durability)
{
    switch (durability) {
    case DURABILITY_POWER:
        return API_DURABILITY_POWER;
    case DURABILITY_PROCESS:
        return API_DURABILITY_PROCESS;
    case DURABILITY_NONE:
        return API_DURABILITY_NONE;
    }
    g_assert_not_reached();
}

static ApiWatch api_watch(BitmapWatch watch)
{
    switch (watch) {
    case BITMAP_WATCH_FULL:
        return API_WATCH_FULL;
    case BITMAP_WATCH_BOOT:
        return API_WATCH_BOOT;
    }
    g_assert_not_reached();
}

static BitmapDurability core_durability(ApiDurability durability)
{
    switch (durability) {
    case API_DURABILITY_POWER:
        return DURABILITY_POWER;
    case API_DURABILITY_PROCESS:
        return DURABILITY_PROCESS;
    case API_DURABILITY_NONE:
        return DURABILITY_NONE;
    }
    g_assert_not_reached();
}

/* Takes what info holds. */
static void render(const char *disk, BitmapInfo *info, BitmapObject *object)
{
    *object = (BitmapObject){
        .disk = g_strdup(disk),
        .name = g_steal_pointer(&info->name),
        .generation = g_steal_pointer(&info->generation),
        .granularity = info->granularity,
        .state = api_state(info->state),
        .reason = g_steal_pointer(&info->reason),
        .recording = info->recording,
        .missed_writes = info->missed_writes,
        .dirty_bytes = info->dirty_bytes,
        .over_reported_bytes = info->over_reported_bytes,
        .durability = api_durability((BitmapDurability)info->durability),
        .watch = api_watch(info->watch),
    };
    bitmap_info_clear(info);
}

static void render_live(const char *disk, Bitmap *bitmap, BitmapObject *object)
{
    BitmapInfo info = {0};
    bitmap_get_info(bitmap, &info);
    render(disk, &info, object);
}

/* A reference to the open disk, so that it is used without the registry's lock. */
static Disk *find_disk(Registry *registry, const char *name, GError **error)
{
    registry_lock(registry);
    const DiskEntry *entry = registry_find_disk(registry, name);
    Disk *disk = entry && entry->disk ? disk_ref(entry->disk) : NULL;
    registry_unlock(registry);
    if (!entry)
        api_error_set(error, ERROR_NOT_FOUND, "/params/disk", "there is no disk '%s'", name);
    else if (!disk)
        api_error_set(error, ERROR_INVALID_STATE, "/params/disk",
                      "disk '%s' is not open, so its bitmaps cannot be read: see `disk show`",
                      name);
    return disk;
}

static Bitmap *find_bitmap(Disk *disk, const char *name, GError **error)
{
    Bitmap *bitmap = disk_find_bitmap(disk, name);
    if (!bitmap)
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "disk '%s' has no bitmap '%s'",
                      disk_name(disk), name);
    return bitmap;
}

static bool show_live(Registry *registry, const char *disk_name, const char *name,
                      BitmapObject *object, GError **error)
{
    g_autoptr(Disk) disk = find_disk(registry, disk_name, error);
    g_autoptr(Bitmap) bitmap = disk ? find_bitmap(disk, name, error) : NULL;
    if (!bitmap)
        return false;
    render_live(disk_name, bitmap, object);
    return true;
}

/* As it is now, or as the transaction would leave it. */
static bool show(Txn *txn, Registry *registry, const char *disk, const char *name,
                 BitmapObject *object, GError **error)
{
    DiskChange *change = txn ? txn_peek_change(txn, disk) : NULL;
    BitmapInfo info = {0};
    if (!change)
        return show_live(registry, disk, name, object, error);
    if (!disk_change_preview(change, name, &info)) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/name", "disk '%s' has no bitmap '%s'", disk,
                      name);
        return false;
    }
    render(disk, &info, object);
    return true;
}

bool method_bitmap_show(Call *call, const BitmapShowParams *params, BitmapShowResult *result,
                        GError **error)
{
    return show_live(call_registry(call), params->disk, params->name, result, error);
}

/* --- list --- */

/* key: "DISK/NAME"; no name has a slash, and a slash sorts before every character that a name may
 * have after the first but "+ - .": so keys are compared as pairs, not as texts. */
typedef struct {
    char *key;
    char *disk;
    Bitmap *bitmap;
} Listed;

static void listed_free(gpointer data)
{
    Listed *listed = data;
    g_free(listed->key);
    g_free(listed->disk);
    bitmap_unref(listed->bitmap);
    g_free(listed);
}

static void add_bitmaps_of(const DiskEntry *entry, GPtrArray *list)
{
    if (!entry->disk)
        return;
    g_autoptr(GPtrArray) bitmaps = disk_list_bitmaps(entry->disk);
    for (guint i = 0; i < bitmaps->len; i++) {
        Listed *listed = g_new0(Listed, 1);
        listed->disk = g_strdup(entry->name);
        listed->bitmap = bitmap_ref(bitmaps->pdata[i]);
        listed->key = g_strdup_printf("%s/%s", entry->name, bitmap_name(listed->bitmap));
        g_ptr_array_add(list, listed);
    }
}

/* Whether a comes behind the cursor, as (disk, name). */
static bool is_behind(const Listed *listed, const char *cursor)
{
    const char *slash = strchr(cursor, '/');
    size_t length = slash ? (size_t)(slash - cursor) : strlen(cursor);
    g_autofree char *disk = g_strndup(cursor, length);
    int order = strcmp(listed->disk, disk);
    return order > 0 || (order == 0 && slash && strcmp(bitmap_name(listed->bitmap), slash + 1) > 0);
}

bool method_bitmap_list(Call *call, const BitmapListParams *params, BitmapListResult *result,
                        GError **error)
{
    Registry *registry = call_registry(call);
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(listed_free);
    registry_lock(registry);
    const DiskEntry *only = params->disk ? registry_find_disk(registry, params->disk) : NULL;
    if (only)
        add_bitmaps_of(only, list);
    g_autoptr(GPtrArray) disks = params->disk ? NULL : registry_list_disks(registry);
    for (guint i = 0; disks && i < disks->len; i++)
        add_bitmaps_of(disks->pdata[i], list);
    registry_unlock(registry);
    if (params->disk && !only) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/disk", "there is no disk '%s'",
                      params->disk);
        return false;
    }

    guint begin = 0;
    while (params->cursor && begin < list->len && !is_behind(list->pdata[begin], params->cursor))
        begin++;
    guint end = list->len - begin > params->limit ? begin + params->limit : list->len;
    result->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)bitmap_object_free);
    for (guint i = begin; i < end; i++) {
        const Listed *listed = list->pdata[i];
        BitmapObject *object = g_new0(BitmapObject, 1);
        render_live(listed->disk, listed->bitmap, object);
        g_ptr_array_add(result->bitmaps, object);
    }
    if (end < list->len && end > begin)
        result->next_cursor = g_strdup(((Listed *)list->pdata[end - 1])->key);
    return true;
}

/* --- extents --- */

/* Extents looked at in one go; clean ones are among them. */
#define STEP 4096

static void add_extent(GPtrArray *extents, uint64_t offset, uint64_t length)
{
    ExtentObject *object = g_new0(ExtentObject, 1);
    object->offset = offset;
    object->length = length;
    g_ptr_array_add(extents, object);
}

/* Appends dirty extents from *offset on, and moves it behind what has been looked at. Extents
 * that touch at the seam of two steps are joined. */
static int collect_dirty(Bitmap *bitmap, uint64_t size, uint64_t *offset, uint32_t limit,
                         GPtrArray *extents)
{
    while (*offset < size) {
        ExtentList list;
        extent_list_init(&list, *offset, STEP);
        int status = bitmap_extents(bitmap, *offset, size - *offset, &list);
        for (size_t i = 0; status == 0 && i < list.count; i++) {
            uint64_t length = list.items[i].length;
            if (list.items[i].flags & EXTENT_DIRTY) {
                ExtentObject *last = extents->len ? extents->pdata[extents->len - 1] : NULL;
                if (last && last->offset + last->length == *offset) {
                    last->length += length;
                } else if (extents->len == limit) {
                    extent_list_clear(&list);
                    return 0;
                } else {
                    add_extent(extents, *offset, length);
                }
            }
            *offset += length;
        }
        bool stuck = list.count == 0;
        extent_list_clear(&list);
        if (status != 0 || stuck)
            return status ? status : -ENOMEM;
    }
    return 0;
}

bool method_bitmap_extents(Call *call, const BitmapExtentsParams *params,
                           BitmapExtentsResult *result, GError **error)
{
    g_autoptr(Disk) disk = find_disk(call_registry(call), params->disk, error);
    g_autoptr(Bitmap) bitmap = disk ? find_bitmap(disk, params->name, error) : NULL;
    if (!bitmap)
        return false;
    uint64_t offset = params->offset, size = disk_size(disk);
    if (offset > size) {
        api_error_set(error, ERROR_INVALID_ARGUMENT, "/params/offset",
                      "%" G_GUINT64_FORMAT
                      " is beyond the end of the disk, which has %" G_GUINT64_FORMAT " bytes",
                      offset, size);
        return false;
    }
    g_autoptr(GPtrArray) extents =
        g_ptr_array_new_with_free_func((GDestroyNotify)extent_object_free);
    int status = collect_dirty(bitmap, size, &offset, params->limit, extents);
    if (status == -EIO) {
        api_error_set(error, ERROR_INVALID_STATE, "/params/name",
                      "bitmap '%s' is invalid or was removed: everything may have changed",
                      params->name);
        return false;
    }
    if (status != 0) {
        api_error_set(error, ERROR_LIMIT, NULL, "not enough memory");
        return false;
    }
    result->extents = g_steal_pointer(&extents);
    result->has_next_offset = offset < size;
    result->next_offset = offset < size ? offset : 0;
    return true;
}

/* --- mutations --- */

/* What an operation of storage refused. What it says is about the bitmap's name, or its
 * generation. */
static bool refuse(GError *local, const char *if_generation, GError **error)
{
    bool generation = if_generation && local->domain == STORAGE_ERROR &&
                      local->code == STORAGE_ERROR_STATE && strstr(local->message, "generation");
    api_error_propagate(error, local, generation ? "/params/if_generation" : "/params/name");
    return false;
}

static bool is_same(DiskChange *change, const BitmapAddParams *params)
{
    BitmapInfo info = {0};
    if (!disk_change_preview(change, params->name, &info))
        return false;
    bool same = info.granularity == params->granularity && info.recording == params->recording &&
                info.state != BITMAP_INVALID &&
                (BitmapDurability)info.durability == core_durability(params->durability);
    bitmap_info_clear(&info);
    return same;
}

bool action_bitmap_add(Txn *txn, const BitmapAddParams *params, GError **error)
{
    DiskChange *change = txn_change_disk(txn, params->disk, "/params/disk", error);
    if (!change)
        return false;
    GError *local = NULL;
    if (disk_change_add(change, params->name, params->granularity, params->recording,
                        core_durability(params->durability), &local)) {
        txn_note_bitmap(txn, "added", params->disk, params->name);
        return true;
    }
    bool exists = g_error_matches(local, STORAGE_ERROR, STORAGE_ERROR_EXISTS);
    if (exists && params->if_exists == API_IF_EXISTS_SAME && is_same(change, params)) {
        g_error_free(local);
        return true;
    }
    return refuse(local, NULL, error);
}

bool describe_bitmap_add(Txn *txn, Registry *registry, const BitmapAddParams *params,
                         BitmapAddResult *result, GError **error)
{
    return show(txn, registry, params->disk, params->name, result, error);
}

bool action_bitmap_remove(Txn *txn, const BitmapRemoveParams *params, GError **error)
{
    if (params->missing_ok && !txn_find_disk(txn, params->disk))
        return true;
    DiskChange *change = txn_change_disk(txn, params->disk, "/params/disk", error);
    if (!change)
        return false;
    GError *local = NULL;
    if (disk_change_remove(change, params->name, params->if_generation, &local)) {
        txn_note_bitmap(txn, "removed", params->disk, params->name);
        return true;
    }
    if (params->missing_ok && g_error_matches(local, STORAGE_ERROR, STORAGE_ERROR_NOT_FOUND)) {
        g_error_free(local);
        return true;
    }
    return refuse(local, params->if_generation, error);
}

bool describe_bitmap_remove(Txn *txn, Registry *registry, const BitmapRemoveParams *params,
                            BitmapRemoveResult *result, GError **error)
{
    result->disk = g_strdup(params->disk);
    result->name = g_strdup(params->name);
    result->removed = txn_has_removed_bitmap(txn, params->disk, params->name);
    return true;
}

typedef bool (*Operation)(DiskChange *change, const char *name, const char *if_generation,
                          GError **error);

/* clear, enable and disable differ in this alone. */
static bool operate(Txn *txn, Operation operation, const char *event, const char *disk,
                    const char *name, const char *if_generation, GError **error)
{
    DiskChange *change = txn_change_disk(txn, disk, "/params/disk", error);
    if (!change)
        return false;
    GError *local = NULL;
    if (!operation(change, name, if_generation, &local))
        return refuse(local, if_generation, error);
    txn_note_bitmap(txn, event, disk, name);
    return true;
}

bool action_bitmap_clear(Txn *txn, const BitmapClearParams *params, GError **error)
{
    return operate(txn, disk_change_clear, "cleared", params->disk, params->name,
                   params->if_generation, error);
}

bool describe_bitmap_clear(Txn *txn, Registry *registry, const BitmapClearParams *params,
                           BitmapClearResult *result, GError **error)
{
    return show(txn, registry, params->disk, params->name, result, error);
}

bool action_bitmap_enable(Txn *txn, const BitmapEnableParams *params, GError **error)
{
    return operate(txn, disk_change_enable, "changed", params->disk, params->name,
                   params->if_generation, error);
}

bool describe_bitmap_enable(Txn *txn, Registry *registry, const BitmapEnableParams *params,
                            BitmapEnableResult *result, GError **error)
{
    return show(txn, registry, params->disk, params->name, result, error);
}

bool action_bitmap_disable(Txn *txn, const BitmapDisableParams *params, GError **error)
{
    return operate(txn, disk_change_disable, "changed", params->disk, params->name,
                   params->if_generation, error);
}

bool describe_bitmap_disable(Txn *txn, Registry *registry, const BitmapDisableParams *params,
                             BitmapDisableResult *result, GError **error)
{
    return show(txn, registry, params->disk, params->name, result, error);
}

/* The path of the source that is not there, so that the error points at it. */
static char *missing_source(DiskChange *change, char **sources)
{
    for (guint i = 0; sources[i]; i++) {
        BitmapInfo info = {0};
        if (!disk_change_preview(change, sources[i], &info))
            return g_strdup_printf("/params/sources/%u", i);
        bitmap_info_clear(&info);
    }
    return NULL;
}

bool action_bitmap_merge(Txn *txn, const BitmapMergeParams *params, GError **error)
{
    DiskChange *change = txn_change_disk(txn, params->disk, "/params/disk", error);
    if (!change)
        return false;
    BitmapInfo info = {0};
    if (!disk_change_preview(change, params->target, &info)) {
        api_error_set(error, ERROR_NOT_FOUND, "/params/target", "disk '%s' has no bitmap '%s'",
                      params->disk, params->target);
        return false;
    }
    bitmap_info_clear(&info);
    g_autofree char *path = missing_source(change, params->sources);
    if (path) {
        api_error_set(error, ERROR_NOT_FOUND, path, "disk '%s' has no such bitmap", params->disk);
        return false;
    }
    GError *local = NULL;
    if (!disk_change_merge(change, params->target, (const char *const *)params->sources,
                           params->if_generation, &local)) {
        bool generation = params->if_generation && strstr(local->message, "generation");
        api_error_propagate(error, local, generation ? "/params/if_generation" : "/params/target");
        return false;
    }
    txn_note_bitmap(txn, "changed", params->disk, params->target);
    return true;
}

bool describe_bitmap_merge(Txn *txn, Registry *registry, const BitmapMergeParams *params,
                           BitmapMergeResult *result, GError **error)
{
    return show(txn, registry, params->disk, params->target, result, error);
}
