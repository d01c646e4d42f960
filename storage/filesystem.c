#include "storage/filesystem.h"
#include <linux/magic.h>
#include <stddef.h>
#include <sys/statfs.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

static bool is_among(int fd, const unsigned *magics, size_t count)
{
    struct statfs info;

    if (fstatfs(fd, &info) != 0) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if ((unsigned)info.f_type == magics[i]) {
            return true;
        }
    }
    return false;
}

bool filesystem_is_prompt(int fd)
{
    static const unsigned magics[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, TMPFS_MAGIC,
                                      BTRFS_SUPER_MAGIC};

    return is_among(fd, magics, sizeof magics / sizeof *magics);
}
