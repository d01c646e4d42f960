/* nbdd: the process. Options, signals, the main loop; the daemon itself is service.h. */
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/options.h"
#include "daemon/service.h"
#include <errno.h>
#include <glib-unix.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define LARGE_BLOCK (256 << 10)

/* A second daemon and a wrong option are told apart from a failure of the system. */
enum { EXIT_USAGE = 2 };

typedef struct {
    GMainLoop *loop;
    Service *service;
} Process;

static void on_stopped(gpointer data)
{
    g_main_loop_quit(((Process *)data)->loop);
}

static gboolean on_signal(gint fd, GIOCondition condition, gpointer data)
{
    Process *process = data;
    struct signalfd_siginfo signal_info;
    if (read(fd, &signal_info, sizeof(signal_info)) != (ssize_t)sizeof(signal_info))
        return G_SOURCE_CONTINUE;
    switch (signal_info.ssi_signo) {
    case SIGHUP:
        service_reload(process->service);
        break;
    case SIGTERM:
    case SIGINT:
        g_message("stopping");
        notify_manager("STOPPING=1");
        service_stop(process->service, on_stopped, process);
        break;
    }
    return G_SOURCE_CONTINUE;
}

/* Signals come as data of a descriptor; blocked in every thread, they interrupt no system call. */
static int block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Every client and disk is a descriptor; the soft limit is low for the sake of select(2). */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int run(const Options *options)
{
    g_autoptr(GError) error = NULL;
    int signal_fd = block_signals();
    raise_descriptors();
    /* A thread for each client must not mean a heap for each client; and what was large is given
     * back (by itself the threshold rises with every large block that is freed). */
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK);
    Process process = {.service = service_start(options, &error)};
    if (!process.service) {
        fprintf(stderr, "nbdd: %s\n", error->message);
        return EXIT_FAILURE;
    }
    process.loop = g_main_loop_new(NULL, FALSE);
    g_unix_fd_add(signal_fd, G_IO_IN, on_signal, &process);
    g_message("serving; control socket %s", options->socket);
    notify_manager("READY=1");
    g_main_loop_run(process.loop);

    if (!service_finish(process.service)) {
        g_warning("something still hangs: ending without it");
        _exit(EXIT_SUCCESS);
    }
    g_main_loop_unref(process.loop);
    close(signal_fd);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    Options options;
    if (!options_parse(&options, argc, argv, &error)) {
        fprintf(stderr, "nbdd: %s\n", error->message);
        options_clear(&options);
        return EXIT_USAGE;
    }
    int status = EXIT_SUCCESS;
    if (options.show_version) {
        printf("nbdd %s\n", NBDD_VERSION);
    } else {
        log_start(options.log_level);
        status = run(&options);
    }
    options_clear(&options);
    return status;
}
