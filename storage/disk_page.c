/* The mapped page of disk_page.h. */
#include "storage/disk_page.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC      "nbddpg1"
#define MAP_OFFSET 4096

_Static_assert(sizeof(DiskPageHeader) <= MAP_OFFSET, "the map begins behind the header");

/* Opens the file and maps the header's page of it. */
static bool map_file(DiskPage *page, struct stat *ret_stat)
{
    struct stat st;
    int fd = open(page->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    /* Allocated, since a store into a hole of a full file system is a SIGBUS. */
    void *memory = MAP_FAILED;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
        posix_fallocate(fd, 0, MAP_OFFSET) == 0)
        memory = mmap(NULL, MAP_OFFSET, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        close(fd);
        return false;
    }
    page->fd = fd;
    page->header = memory;
    *ret_stat = st;
    return true;
}

static void map_nothing(DiskPage *page)
{
    void *memory =
        mmap(NULL, MAP_OFFSET, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        g_error("no memory for a disk's page"); /* 4 KiB: nothing would go on from here */
    page->fd = -1;
    page->header = memory;
}

static bool map_regions(DiskPage *page, uint64_t size)
{
    if (page->fd < 0 || size == 0 || posix_fallocate(page->fd, 0, MAP_OFFSET + (off_t)size) != 0)
        return false;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, page->fd, MAP_OFFSET);
    if (memory == MAP_FAILED)
        return false;
    if (page->map)
        munmap((void *)page->map, page->map_size);
    page->map = memory;
    page->map_size = size;
    return true;
}

static void unmap_regions(DiskPage *page)
{
    if (page->map)
        munmap((void *)page->map, page->map_size);
    page->map = NULL;
    page->map_size = 0;
}

static char *path_of(const char *dir, const char *id, const char *suffix)
{
    g_autofree char *name = g_strconcat("nbdd-", id, suffix, NULL);
    return g_build_filename(dir, name, NULL);
}

static bool is_about(const DiskPageHeader *header, const char *id, const char *boot, uint64_t inode)
{
    return memcmp(header->magic, MAGIC, sizeof header->magic) == 0 &&
           strncmp(header->boot, boot, sizeof header->boot) == 0 &&
           strncmp(header->disk, id, sizeof header->disk) == 0 && header->inode == inode;
}

void disk_page_open(DiskPage *page, const char *dir, const char *id, const char *boot,
                    uint64_t inode, bool new, DiskPageRemains *ret_remains)
{
    struct stat st = {0};
    *page = (DiskPage){.path = path_of(dir, id, new ? "-new" : "")};
    *ret_remains = (DiskPageRemains){0};
    g_autofree char *leftover = path_of(dir, id, "-new"); /* by a process that died */
    unlink(leftover);
    if (new)
        page->settled = path_of(dir, id, "");
    /* Twice: without what is in it bitmaps of a disk that was not closed are lost. */
    if (!map_file(page, &st) && !map_file(page, &st))
        map_nothing(page);
    const DiskPageHeader *header = page->header;
    if (!is_about(header, id, boot, inode))
        return;
    uint64_t map_size = header->map_size;
    if (map_size && (st.st_size < MAP_OFFSET || map_size > (uint64_t)st.st_size - MAP_OFFSET ||
                     !map_regions(page, map_size)))
        return;
    *ret_remains = (DiskPageRemains){
        .found = true,
        .in_flight = (atomic_load(&header->gate) & ~GATE_CLOSED) != 0,
        .changed = atomic_load(&header->changed),
        .last_write = atomic_load(&header->last_write),
        .sequence = atomic_load(&header->sequence),
        .region_shift = (unsigned)header->region_shift,
        .map_size = map_size,
    };
}

void disk_page_reset(DiskPage *page, const char *id, const char *boot, uint64_t inode,
                     int64_t last_write, uint64_t sequence)
{
    DiskPageHeader *header = page->header;
    unmap_regions(page);
    /* One that was found can be at every instant: by it those are judged who die here. */
    if (!is_about(header, id, boot, inode)) {
        memset(header, 0, sizeof *header);
        g_strlcpy(header->boot, boot, sizeof header->boot);
        g_strlcpy(header->disk, id, sizeof header->disk);
        header->inode = inode;
    }
    header->map_size = 0;
    atomic_store(&header->gate, 0);
    atomic_store(&header->last_write, last_write);
    atomic_store(&header->sequence, sequence);
    atomic_store(&header->changed, 0);
    memcpy(header->magic, MAGIC, sizeof header->magic);
}

bool disk_page_add_map(DiskPage *page, uint64_t size, unsigned region_shift)
{
    DiskPageHeader *header = page->header;
    uint64_t old = page->map_size;
    if (size <= old)
        return true;
    if (!map_regions(page, size))
        return false;
    memset((uint8_t *)page->map + old, PAGE_REGION_QUIET, size - old);
    header->region_shift = region_shift;
    header->map_size = size;
    return true;
}

void disk_page_claim(DiskPage *page)
{
    if (page->settled == NULL || page->fd < 0 || link(page->path, page->settled) != 0)
        return;
    unlink(page->path);
    g_free(page->path);
    page->path = g_steal_pointer(&page->settled);
}

void disk_page_settle(DiskPage *page)
{
    if (page->settled == NULL)
        return;
    /* Should it fail, it is as if there were no file: nobody finds it. */
    if (page->fd >= 0 && rename(page->path, page->settled) == 0) {
        g_free(page->path);
        page->path = g_steal_pointer(&page->settled);
    }
}

/* Its name may belong to another disk's by now. */
static void delete_own(const DiskPage *page)
{
    struct stat mine, named;
    if (fstat(page->fd, &mine) == 0 && lstat(page->path, &named) == 0 &&
        mine.st_dev == named.st_dev && mine.st_ino == named.st_ino)
        unlink(page->path);
}

void disk_page_close(DiskPage *page, bool forget)
{
    unmap_regions(page);
    if (page->header)
        munmap(page->header, MAP_OFFSET);
    if (page->fd >= 0 && (forget || page->settled))
        delete_own(page);
    if (page->fd >= 0)
        close(page->fd);
    g_free(page->path);
    g_free(page->settled);
    *page = (DiskPage){.fd = -1};
}

void disk_page_forget(const char *dir, const char *id)
{
    g_autofree char *path = path_of(dir, id, "");
    unlink(path);
}

void disk_page_advance(DiskPage *page, int64_t when)
{
    int64_t last = atomic_load_explicit(&page->header->last_write, memory_order_relaxed);
    while (last < when &&
           !atomic_compare_exchange_weak_explicit(&page->header->last_write, &last, when,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

void disk_page_touch(DiskPage *page, bool exact)
{
    struct timespec now;
    clock_gettime(exact ? CLOCK_REALTIME : CLOCK_REALTIME_COARSE, &now);
    disk_page_advance(page, now.tv_sec * INT64_C(1000000000) + now.tv_nsec);
}
