#include "daemon/core/allow_groups.h"
#include "daemon/core/refs.h"
#include <errno.h>
#include <glib.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <unistd.h>

#define BUFFER_FIRST 4096
#define BUFFER_MOST  (16 * 1024 * 1024) /* the members of a large group take their room, too */
#define GROUPS_FIRST 64
#define GROUPS_MOST  65536 /* what Linux has for a process (NGROUPS_MAX) */

struct AllowGroups {
    RefCount refs;
    GHashTable *names; /* a set: names and numbers */
    bool complete;     /* no others than these */
};

/* What the database is asked through: ERANGE means that the buffer is to grow. */
typedef struct {
    char *buffer;
    size_t size;
} Room;

static bool grow(Room *room, int error)
{
    if (error == EINTR)
        return true;
    if (error != ERANGE || room->size >= BUFFER_MOST)
        return false;
    room->size *= 2;
    g_free(room->buffer);
    room->buffer = g_malloc(room->size);
    return true;
}

/* Both the name and the number of a group match "@GROUP". */
static void add_group(AllowGroups *groups, gid_t gid, Room *room)
{
    struct group entry, *found = NULL;
    int error;
    do
        error = getgrgid_r(gid, &entry, room->buffer, room->size, &found);
    while (error != 0 && grow(room, error));
    if (error != 0)
        groups->complete = false;
    else if (found)
        g_hash_table_add(groups->names, g_strdup(found->gr_name));
    g_hash_table_add(groups->names, g_strdup_printf("%u", (unsigned)gid));
}

/* Copies: the database's memory is the room's, which the groups' names need next. */
static bool find_user(uid_t uid, Room *room, char **ret_name, gid_t *ret_gid)
{
    struct passwd entry, *found = NULL;
    int error;
    do
        error = getpwuid_r(uid, &entry, room->buffer, room->size, &found);
    while (error != 0 && grow(room, error));
    if (found) {
        *ret_name = g_strdup(found->pw_name);
        *ret_gid = found->pw_gid;
    }
    return error == 0;
}

static gid_t *list_groups(const char *name, gid_t gid, int *ret_count, bool *ret_complete)
{
    int size = GROUPS_FIRST;
    gid_t *gids = g_new(gid_t, size);
    for (;;) {
        int count = size;
        *ret_complete = getgrouplist(name, gid, gids, &count) >= 0;
        *ret_count = MIN(count, size);
        if (*ret_complete || size >= GROUPS_MOST)
            return gids;
        size = CLAMP(count, 2 * size, GROUPS_MOST);
        gids = g_renew(gid_t, gids, size);
    }
}

AllowGroups *allow_groups_look_up(uid_t uid)
{
    AllowGroups *groups = g_new0(AllowGroups, 1);
    refs_init(&groups->refs);
    groups->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Room room = {g_malloc(BUFFER_FIRST), BUFFER_FIRST};
    g_autofree char *name = NULL;
    gid_t gid = 0;
    groups->complete = find_user(uid, &room, &name, &gid);
    if (name) {
        int count;
        g_autofree gid_t *gids = list_groups(name, gid, &count, &groups->complete);
        for (int i = 0; i < count; i++)
            add_group(groups, gids[i], &room);
    }
    g_free(room.buffer);
    return groups;
}

AllowGroups *allow_groups_ref(AllowGroups *groups)
{
    if (groups)
        refs_take(&groups->refs);
    return groups;
}

void allow_groups_unref(AllowGroups *groups)
{
    if (!groups || !refs_drop(&groups->refs))
        return;
    g_hash_table_unref(groups->names);
    g_free(groups);
}

AllowMatch allow_groups_match(const AllowGroups *groups, const char *group)
{
    if (groups && g_hash_table_contains(groups->names, group))
        return ALLOW_YES;
    return groups && groups->complete ? ALLOW_NO : ALLOW_UNKNOWN;
}
