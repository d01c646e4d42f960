/* Files to test on: made in a folder of choice, and removed at the end of the scope.
 *
 * The two kinds of file system that behave differently are SCRATCH_DISK (wherever temporary files
 * live; ext4 or XFS as a rule) and SCRATCH_MEMORY (tmpfs). Where they are the same, tests run twice
 * on the same; nothing may depend on more than what is asked for in a test. NBDD_SCRATCH=FOLDER in
 * the environment takes the place of SCRATCH_DISK, to test on another file system. */
#ifndef UNIT_SCRATCH_H
#define UNIT_SCRATCH_H

#include "tests/unit/check.h"
#include <fcntl.h>
#include <glib.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCRATCH_DISK   "/var/tmp"
#define SCRATCH_MEMORY "/dev/shm"

typedef struct {
    char *path;
} Scratch;

static inline Scratch scratch_file(const char *folder, uint64_t size)
{
    const char *other = g_strcmp0(folder, SCRATCH_DISK) == 0 ? g_getenv("NBDD_SCRATCH") : NULL;
    Scratch scratch = {.path = g_build_filename(other ? other : folder, "nbdd-unit-XXXXXX", NULL)};
    int fd = g_mkstemp_full(scratch.path, O_RDWR | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
    return scratch;
}

static inline void scratch_clear(Scratch *scratch)
{
    unlink(scratch->path);
    g_free(scratch->path);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Scratch, scratch_clear)

static inline uint64_t scratch_allocated(const Scratch *scratch)
{
    struct stat info;

    assert_int_equal(stat(scratch->path, &info), 0);
    return (uint64_t)info.st_blocks * 512;
}

#endif
