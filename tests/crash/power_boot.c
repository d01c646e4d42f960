/* Half of the preloaded library of the power-loss simulator: a machine that has just booted, and
 * an nbdd that starts quickly.
 *
 * Before main it becomes a stock of processes: for each command that it gets on the socket of
 * NBDD_POWER_FD it forks, and the child goes on into main, with everything loaded and linked. A
 * command is "FOLDER BOOT-ID BOOT-TIME MTIME CTIME LOG" ('-': none); the answers are the child's
 * pid and, when it has ended, its wait status.
 *
 * In the child the kernel's boot id is BOOT-ID, the machine was started at BOOT-TIME (ns since the
 * epoch), the image FOLDER/disk.img was last changed at MTIME and CTIME (as far as statx tells),
 * what root has in /run/nbdd lies in FOLDER/run, and nothing is ever synced: whoever cuts the power
 * here does it in a model. */
#include "tests/crash/power_log.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *power_log_path;
char power_folder[4096];
static bool active;
static char command[8192], boot_id[64];
static long long boot_time, image_mtime, image_ctime;
static struct stat image;

bool power_active(void)
{
    return active;
}

/* The next word of the command, NULL for '-'. */
static char *next_word(char **rest)
{
    char *word = strsep(rest, " ");
    return word && strcmp(word, "-") != 0 ? word : NULL;
}

static long long number(const char *word)
{
    return word ? strtoll(word, NULL, 10) : 0;
}

static void begin(char *rest)
{
    const char *folder = next_word(&rest);
    const char *id = next_word(&rest);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(power_folder, sizeof power_folder, "%s", folder ? folder : ".");
    if (chdir(power_folder) < 0 || stat("disk.img", &image) < 0)
        _exit(125);
    snprintf(boot_id, sizeof boot_id, "%s\n", id ? id : "");
    boot_time = number(next_word(&rest));
    image_mtime = number(next_word(&rest));
    image_ctime = number(next_word(&rest));
    power_log_path = next_word(&rest);
    active = true;
}

__attribute__((constructor)) static void serve(void)
{
    const char *text = getenv("NBDD_POWER_FD");
    if (text == NULL)
        return;
    int fd = (int)strtol(text, NULL, 10), status = 0;
    unsetenv("NBDD_POWER_FD");
    unsetenv("LD_PRELOAD");
    for (;;) {
        ssize_t n = read(fd, command, sizeof command - 1);
        if (n <= 0)
            _exit(0);
        command[n] = 0;
        pid_t child = fork();
        if (child == 0) {
            close(fd);
            begin(command);
            return;
        }
        if (write(fd, &child, sizeof child) < 0 || waitpid(child, &status, 0) < 0 ||
            write(fd, &status, sizeof status) < 0)
            _exit(1);
    }
}

int power_boot_id(void)
{
    int fd = memfd_create("boot_id", 0);
    if (write(fd, boot_id, strlen(boot_id)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        _exit(125);
    return fd;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (!active || clock != CLOCK_BOOTTIME)
        return real(clock, time);
    int rc = real(CLOCK_REALTIME, time);
    long long up = time->tv_sec * 1000000000LL + time->tv_nsec - boot_time;
    *time = (struct timespec){up / 1000000000, up % 1000000000};
    return rc;
}

static void set_time(struct statx_timestamp *time, long long ns)
{
    time->tv_sec = ns / 1000000000;
    time->tv_nsec = (unsigned)(ns % 1000000000);
}

int statx(int fd, const char *restrict path, int flags, unsigned mask, struct statx *restrict st)
{
    static int (*real)(int, const char *, int, unsigned, struct statx *);
    if (!real)
        real = (int (*)(int, const char *, int, unsigned, struct statx *))dlsym(RTLD_NEXT, "statx");
    int rc = real(fd, path, flags, mask, st);
    if (rc == 0 && active && image_ctime && st->stx_ino == image.st_ino && S_ISREG(st->stx_mode)) {
        set_time(&st->stx_mtime, image_mtime);
        set_time(&st->stx_ctime, image_ctime);
    }
    return rc;
}
