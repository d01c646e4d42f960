#include "storage/filesystem.h"
#include <linux/magic.h>
#include <stddef.h>
#include <sys/statfs.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
/* Those that <linux/magic.h> has not, or not for long. */
#define CIFS_MAGIC   0xff534d42u
#define SMB2_MAGIC   0xfe534d42u
#define CEPH_MAGIC   0x00c36400u
#define LUSTRE_MAGIC 0x0bd00bd0u
#define FUSE_MAGIC   0x65735546u

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

bool filesystem_finds_room_late(int fd)
{
    static const unsigned magics[] = {NFS_SUPER_MAGIC, CIFS_MAGIC, SMB2_MAGIC,   CEPH_MAGIC,
                                      AFS_FS_MAGIC,    V9FS_MAGIC, LUSTRE_MAGIC, FUSE_MAGIC};

    return is_among(fd, magics, sizeof magics / sizeof *magics);
}
