#include "daemon/core/listener_entry.h"

ListenerEntry *listener_entry_new(const char *name, const char *address)
{
    ListenerEntry *entry = g_new0(ListenerEntry, 1);
    refs_init(&entry->refs);
    entry->name = g_strdup(name);
    entry->requested = g_strdup(address);
    entry->address = g_strdup(address);
    return entry;
}

ListenerEntry *listener_entry_ref(ListenerEntry *entry)
{
    refs_take(&entry->refs);
    return entry;
}

void listener_entry_unref(ListenerEntry *entry)
{
    if (!entry || !refs_drop(&entry->refs))
        return;
    g_free(entry->name);
    g_free(entry->requested);
    g_free(entry->address);
    g_free(entry->credential);
    g_free(entry->problem);
    g_free(entry);
}
