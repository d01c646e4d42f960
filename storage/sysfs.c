#include "storage/sysfs.h"
#include <glib.h>
#include <sys/sysmacros.h>

uint64_t sysfs_queue_value(dev_t device, const char *name, uint64_t missing)
{
    static const char *const places[] = {"queue", "../queue"};

    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autofree char *text = NULL;
        g_autofree char *path = g_strdup_printf("/sys/dev/block/%u:%u/%s/%s", major(device),
                                                minor(device), places[i], name);

        if (g_file_get_contents(path, &text, NULL, NULL)) {
            return g_ascii_strtoull(text, NULL, 10);
        }
    }
    return missing;
}
