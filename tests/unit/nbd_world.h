/* A small world for tests of the NBD server: a store, a registry and one export, in a temporary
 * folder, without main loop and sockets of its own. */
#ifndef UNIT_NBD_WORLD_H
#define UNIT_NBD_WORLD_H

#include "daemon/core/registry.h"
#include "daemon/nbd/server.h"

typedef struct {
    char *folder;
    Store *store;
    Engine *engine;
    Registry *registry;
    NbdServer *server;
} NbdWorld;

typedef struct {
    uint64_t size;  /* of the disk */
    bool read_only; /* the export */
    CacheMode cache;
    const char *bitmap;   /* NULL: none */
    const Limits *limits; /* NULL: the defaults */
} NbdWorldOptions;

/* The export is named "e", the disk "d", its file FOLDER/disk. Ends the process on failure. */
NbdWorld *nbd_world_new(const NbdWorldOptions *options);
/* Waits for the connections to end by themselves. */
void nbd_world_free(NbdWorld *world);
/* The client's end of a new connection. */
int nbd_world_connect(NbdWorld *world);
/* Under the registry's lock: tells every client to drain, those in the handshake too. */
void nbd_world_stop_locked(NbdWorld *world);

#endif
