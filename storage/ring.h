/* One io_uring that all connections share: the engine's half for plain transfers. */
#ifndef STORAGE_RING_H
#define STORAGE_RING_H

#include "storage/engine.h"

typedef struct Ring Ring;

/* moved: bytes that were transferred, or a negative errno. Runs on the ring's thread. */
typedef void (*RingFunction)(gpointer data, EngineIo *io, int moved);

/* NULL where the kernel does not let us have one. */
Ring *ring_new(RingFunction completed, gpointer data);
void ring_free(Ring *ring); /* waits for all transfers; takes NULL */
void ring_submit(Ring *ring, EngineIo *io);

#endif
