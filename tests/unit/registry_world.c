#include "tests/unit/registry_world.h"
#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

static void must(bool good, GError *error)
{
    if (!good)
        fail_msg("%s", error ? error->message : "failed without an error");
}

RegistryWorld *registry_world_new(void)
{
    GError *error = NULL;
    RegistryWorld *world = g_new0(RegistryWorld, 1);
    world->folder = g_dir_make_tmp("nbdd-core-XXXXXX", &error);
    must(world->folder != NULL, error);
    g_autofree char *state = g_build_filename(world->folder, "state", NULL);
    world->store = store_open(state, &error);
    must(world->store != NULL, error);
    world->engine = engine_new(2, ENGINE_THREADS);
    Limits limits;
    limits_init(&limits);
    DaemonFacts facts = {.state_dir = state, .socket = state};
    world->registry = registry_new(world->store, world->engine, &limits, &facts);
    ListenerEntry *listener = listener_entry_new("l", "unix:/l");
    g_hash_table_insert(world->registry->listeners, listener->name, listener);
    return world;
}

static void remove_tree(const char *path)
{
    GDir *folder = g_dir_open(path, 0, NULL);
    const char *name;
    while (folder && (name = g_dir_read_name(folder))) {
        g_autofree char *inner = g_build_filename(path, name, NULL);
        remove_tree(inner);
    }
    if (folder)
        g_dir_close(folder);
    g_remove(path);
}

void registry_world_free(RegistryWorld *world)
{
    assert_int_equal(g_hash_table_size(world->registry->clients), 0);
    assert_int_equal(g_hash_table_size(world->registry->served_identities), 0);
    assert_int_equal(g_hash_table_size(world->registry->claims), 0);
    registry_free(world->registry);
    engine_free(world->engine);
    store_close(world->store);
    remove_tree(world->folder);
    g_free(world->folder);
    g_free(world);
}

const char *registry_world_image(RegistryWorld *world, const char *name)
{
    g_autofree char *path = g_build_filename(world->folder, name, NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1024 * 1024), 0);
    close(fd);
    return g_intern_string(path);
}

Txn *registry_world_begin(RegistryWorld *world)
{
    return txn_begin(world->registry, g_get_monotonic_time() + REGISTRY_WORLD_PATIENCE);
}

void registry_world_commit(Txn *txn)
{
    GError *error = NULL;
    must(txn_commit(txn, &error), error);
}

void check_error(bool good, const GError *error, ErrorKind kind, const char *path)
{
    assert_false(good);
    assert_non_null(error);
    if (error->domain != API_ERROR || error->code != (int)kind ||
        (path && g_strcmp0(path, api_error_path(error)) != 0))
        fail_msg("error %d at %s: %s", error->code, api_error_path(error), error->message);
}

void registry_world_add_disk(RegistryWorld *world, const char *name)
{
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    must(txn_add_disk(txn, name, registry_world_image(world, name), false, CACHE_WRITEBACK, false,
                      &error),
         error);
    registry_world_commit(txn);
}

void registry_world_add_export(RegistryWorld *world, const char *name, const char *disk,
                               bool read_only, SharingMode sharing)
{
    GError *error = NULL;
    g_autoptr(ExportConfig) config = export_config_new(name, disk);
    config->read_only = read_only;
    config->sharing = sharing;
    Txn *txn = registry_world_begin(world);
    must(txn_add_export(txn, config, &error), error);
    registry_world_commit(txn);
}

void registry_world_add_bitmap(RegistryWorld *world, const char *disk, const char *name)
{
    GError *error = NULL;
    Txn *txn = registry_world_begin(world);
    DiskChange *change = txn_change_disk(txn, disk, NULL, &error);
    must(change && disk_change_add(change, name, 65536, true, DURABILITY_POWER, &error), error);
    registry_world_commit(txn);
}

static gint compare_texts(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static char *join_sorted(GPtrArray *words)
{
    g_ptr_array_sort(words, compare_texts);
    g_ptr_array_add(words, NULL);
    return g_strjoinv(" ", (char **)words->pdata);
}

char *registry_world_rows(RegistryWorld *world)
{
    GError *error = NULL;
    g_autoptr(StoreConfig) config = store_load_config(world->store, &error);
    must(config != NULL, error);
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < config->disks->len; i++)
        g_ptr_array_add(words,
                        g_strconcat("d:", ((StoreDisk *)config->disks->pdata[i])->name, NULL));
    for (guint i = 0; i < config->exports->len; i++)
        g_ptr_array_add(words,
                        g_strconcat("e:", ((StoreExport *)config->exports->pdata[i])->name, NULL));
    return join_sorted(words);
}

char *registry_world_live(RegistryWorld *world)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer name;
    g_hash_table_iter_init(&iter, world->registry->disks);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_ptr_array_add(words, g_strconcat("d:", name, NULL));
    g_hash_table_iter_init(&iter, world->registry->exports);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_ptr_array_add(words, g_strconcat("e:", name, NULL));
    return join_sorted(words);
}

/* --- clients --- */

static void on_stop(gpointer connection, ClientStop how)
{
    FakeClient *fake = connection;
    /* It is on its way already: a thread that is slow to run may be told once more. */
    if (fake->stopped || (fake->stubborn && how != CLIENT_STOP_HARD))
        return;
    fake->how = how;
    fake->stopped = true;
}

static void *serve(void *argument)
{
    FakeClient *fake = argument;
    Registry *registry = fake->client->registry;
    for (bool stopped = false; !stopped;) {
        g_usleep(1000);
        registry_lock(registry);
        stopped = fake->stopped;
        registry_unlock(registry);
    }
    client_closed(fake->client);
    return NULL;
}

FakeClient *fake_client_new(RegistryWorld *world, const char *identity)
{
    FakeClient *fake = g_new0(FakeClient, 1);
    fake->client =
        client_new(world->registry, "l", "unix:/l", identity, on_stop, fake, &fake->text);
    assert_non_null(fake->client);
    assert_int_equal(pthread_create(&fake->thread, NULL, serve, fake), 0);
    return fake;
}

Admission fake_client_attach(FakeClient *fake, const char *export_name)
{
    return client_attach(fake->client, export_name, &fake->view, &fake->text);
}

bool fake_client_was_stopped(FakeClient *fake)
{
    Registry *registry = fake->client->registry;
    registry_lock(registry);
    bool stopped = fake->stopped;
    registry_unlock(registry);
    return stopped;
}

void fake_client_free(FakeClient *fake)
{
    Registry *registry = fake->client->registry;
    registry_lock(registry);
    fake->stopped = true;
    registry_unlock(registry);
    pthread_join(fake->thread, NULL);
    export_view_clear(&fake->view);
    client_unref(fake->client);
    g_free(fake->text);
    g_free(fake);
}
