/* A registry over a store in a temporary folder, with images and make-believe connections: what
 * tests of the core play in. Every function fails the test when it fails. */
#ifndef UNIT_REGISTRY_WORLD_H
#define UNIT_REGISTRY_WORLD_H

#include "daemon/core/api_error.h"
#include "daemon/core/registry_state.h"
#include "daemon/core/txn.h"
#include "tests/unit/check.h"

typedef struct {
    char *folder;
    Store *store;
    Engine *engine;
    Registry *registry;
} RegistryWorld;

RegistryWorld *registry_world_new(void); /* with a listener "l" */
void registry_world_free(RegistryWorld *world);

/* Path of a new image of 1 MiB; valid until the world goes. */
const char *registry_world_image(RegistryWorld *world, const char *name);

/* For what comes soon, but on a busy machine no bound can be named. */
#define REGISTRY_WORLD_PATIENCE (60 * G_USEC_PER_SEC)

Txn *registry_world_begin(RegistryWorld *world);
void registry_world_commit(Txn *txn);
/* The call must fail and set error, a variable, with this kind and path (NULL: any). Clears it. */
#define expect_error(call, error, kind, path)                                                      \
    do {                                                                                           \
        bool good_ = (call);                                                                       \
        check_error(good_, error, kind, path);                                                     \
        g_clear_error(&error);                                                                     \
    } while (0)
void check_error(bool good, const GError *error, ErrorKind kind, const char *path);

/* Disk "d" on an image, and exports of it. */
void registry_world_add_disk(RegistryWorld *world, const char *name);
void registry_world_add_export(RegistryWorld *world, const char *name, const char *disk,
                               bool read_only, SharingMode sharing);
void registry_world_add_bitmap(RegistryWorld *world, const char *disk, const char *name);

/* Rows in the store, as "d:NAME e:NAME...", sorted; g_free. */
char *registry_world_rows(RegistryWorld *world);
/* The same from the registry. */
char *registry_world_live(RegistryWorld *world);

/* A connection without a socket: a thread that closes its client as soon as it is told to stop,
 * and at the latest when it is freed. */
typedef struct {
    Client *client;
    ClientStop how; /* what it heeded */
    bool stopped;   /* under the registry's lock */
    bool stubborn;  /* heeds only CLIENT_STOP_HARD */
    unsigned woken; /* for tests that count; under the registry's lock */
    pthread_t thread;
    ExportView view;
    char *text;
} FakeClient;

FakeClient *fake_client_new(RegistryWorld *world, const char *identity);
Admission fake_client_attach(FakeClient *fake, const char *export_name);
bool fake_client_was_stopped(FakeClient *fake);
void fake_client_free(FakeClient *fake); /* closes */

#endif
