/* An io_uring that one thread has for itself: the engine's half for plain transfers. What the
 * thread submits comes back to it while it waits, and no other thread has to be woken for it. What
 * the kernel cannot start without waiting (a write that needs room first, a file system that stands
 * still) it gives to threads of its own, which count as this process's: at most two for a ring, so
 * that a disk that hangs does not use up all that the process may have. All calls are that
 * thread's. */
#ifndef STORAGE_RING_H
#define STORAGE_RING_H

#include "storage/engine.h"
#include <poll.h>

typedef struct Ring Ring;

/* moved: bytes that were transferred, or a negative errno. Runs inside the calls below, and must
 * make none of them. */
typedef void (*RingFunction)(gpointer data, EngineIo *io, int moved);

/* Of the calling thread. NULL where the kernel does not let it have one. */
Ring *ring_new(RingFunction completed, gpointer data);
void ring_free(Ring *ring); /* waits for all transfers; takes NULL */
/* The kernel has it at the next ring_push or ring_poll, or earlier. */
void ring_submit(Ring *ring, EngineIo *io);
void ring_push(Ring *ring);
/* False: no more until some have completed. */
bool ring_has_room(const Ring *ring);
/* Transfers that have not completed. */
unsigned ring_in_flight(const Ring *ring);

/* poll(2) that transfers end, too: waits until one has completed, something happens to a
 * descriptor, or for so many microseconds (negative: for ever). Sets revents. A descriptor of -1
 * is left out. What it tells may be over: that something could be read which has been read
 * meanwhile; and it may end for nothing. No descriptor is closed while the ring has it. */
#define RING_WATCHED 2
void ring_poll(Ring *ring, struct pollfd *fds, unsigned count, gint64 timeout);

#endif
