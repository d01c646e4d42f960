/* A library to preload into nbdd: looking at or opening a file whose name has "hang-" in it takes
 * as long as the file that NBDD_HANG names exists, as on a file server that has gone away. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* NBDD_HELD names a file that is made when the first one waits. */
static void hold(const char *path)
{
    const char *switch_path = getenv("NBDD_HANG"), *held_path = getenv("NBDD_HELD");
    while (strstr(path, "hang-") != NULL && switch_path != NULL && access(switch_path, F_OK) == 0) {
        if (held_path != NULL)
            mknod(held_path, S_IFREG | 0600, 0);
        usleep(20000);
    }
}

#define DEFINE_OPEN(name)                                                                          \
    int name(const char *path, int flags, ...);                                                    \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        static int (*next)(const char *, int, ...);                                                \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                  \
        va_end(rest);                                                                              \
        if (next == NULL)                                                                          \
            next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);                       \
        hold(path);                                                                                \
        return next(path, flags, mode);                                                            \
    }

DEFINE_OPEN(open)
DEFINE_OPEN(open64)

int stat64(const char *path, struct stat64 *info)
{
    static int (*next)(const char *, struct stat64 *);
    if (next == NULL)
        next = (int (*)(const char *, struct stat64 *))dlsym(RTLD_NEXT, "stat64");
    hold(path);
    return next(path, info);
}
