#include "tests/unit/nbd_world.h"
#include "daemon/core/registry_state.h"
#include "daemon/core/txn.h"
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void check(bool good, GError *error)
{
    if (good)
        return;
    fprintf(stderr, "nbd_world: %s\n", error ? error->message : "failed");
    exit(99);
}

static void add_listener(NbdWorld *world)
{
    ListenerEntry *entry = listener_entry_new("test", "unix:test");
    registry_lock(world->registry);
    g_hash_table_insert(world->registry->listeners, entry->name, entry);
    registry_unlock(world->registry);
}

static void add_export(NbdWorld *world, const NbdWorldOptions *options)
{
    GError *error = NULL;
    g_autofree char *path = g_build_filename(world->folder, "disk", NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    check(fd >= 0 && ftruncate(fd, (off_t)options->size) == 0, NULL);
    close(fd);

    ExportConfig *config = export_config_new("e", "d");
    config->sharing = SHARING_SHARED;
    config->read_only = options->read_only;
    Txn *txn = txn_begin(world->registry, G_MAXINT64);
    check(txn_claim(txn, CLAIM_DISK, "d", &error), error);
    check(txn_claim(txn, CLAIM_EXPORT, "e", &error), error);
    check(txn_add_disk(txn, "d", path, false, options->cache, false, &error), error);
    check(txn_add_export(txn, config, &error), error);
    if (options->bitmap != NULL) {
        DiskChange *change = txn_change_disk(txn, "d", "/params/disk", &error);
        check(change != NULL, error);
        check(disk_change_add(change, options->bitmap, 65536, true, DURABILITY_POWER, &error),
              error);
    }
    check(txn_commit(txn, &error), error);
    export_config_unref(config);
}

NbdWorld *nbd_world_new(const NbdWorldOptions *options)
{
    NbdWorld *world = g_new0(NbdWorld, 1);
    GError *error = NULL;
    Limits limits;
    DaemonFacts facts = {0};
    limits_init(&limits);
    if (options->limits)
        limits = *options->limits;
    limits.handshake_seconds = 600; /* however busy the machine is */
    world->folder = g_dir_make_tmp("nbd-world-XXXXXX", &error);
    check(world->folder != NULL, error);
    g_autofree char *state = g_build_filename(world->folder, "state", NULL);
    world->store = store_open(state, &error);
    check(world->store != NULL, error);
    world->engine = engine_new(8, ENGINE_THREADS);
    world->registry = registry_new(world->store, world->engine, &limits, &facts);
    add_export(world, options);
    add_listener(world);
    world->server = nbd_server_new(world->registry);
    return world;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *level)
{
    return remove(path);
}

void nbd_world_free(NbdWorld *world)
{
    nbd_server_free(world->server);
    registry_free(world->registry);
    engine_free(world->engine);
    store_close(world->store);
    nftw(world->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    g_free(world->folder);
    g_free(world);
}

int nbd_world_connect(NbdWorld *world)
{
    g_autofree char *text = NULL;
    int ends[2];
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, NULL);
    check(nbd_server_serve(world->server, ends[1], "test", "unix:test", "unix:0", &text), NULL);
    return ends[0];
}

void nbd_world_stop_locked(NbdWorld *world)
{
    GHashTableIter iter;
    gpointer client;
    g_hash_table_iter_init(&iter, world->registry->clients);
    while (g_hash_table_iter_next(&iter, NULL, &client))
        client_stop(client, CLIENT_STOP_DRAIN);
}
