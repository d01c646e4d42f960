/* Inside the transmission of one connection: what its parts share. All of it is the connection's
 * thread's. */
#ifndef NBD_TRANSMISSION_STATE_H
#define NBD_TRANSMISSION_STATE_H

#include "daemon/nbd/busy_poll.h"
#include "daemon/nbd/gather.h"
#include "daemon/nbd/input.h"
#include "daemon/nbd/output.h"
#include "daemon/nbd/request.h"

/* A request whose payload is on its way. */
typedef enum {
    INCOMING_NONE,
    INCOMING_BLOCK,   /* into a block of its own */
    INCOMING_STREAM,  /* onto the disk, as it comes */
    INCOMING_DISCARD, /* a refused one: read away, then answered */
} IncomingKind;

typedef struct {
    IncomingKind kind;
    NbdRequest wire;
    uint64_t left, taken; /* bytes of the payload */
    void *block;
    size_t block_size;
    uint64_t written; /* BLOCK: bytes in front of it that are on the disk already */
    size_t piece;     /* STREAM: no less is written at once, but at the end */
    bool may_wait;    /* STREAM: for the disk, since there is no memory */
    uint32_t error;   /* STREAM: of the first write that failed; DISCARD */
    const char *text;
    gint64 started;
} Incoming;

typedef struct {
    Throttle *throttle;
    const _Atomic bool *limited; /* whether it has limits */
    ThrottleWaiter place;
    bool admitted;    /* the request at the front of the input has been let through */
    gint64 since;     /* when it was first held back; 0: it was not */
    gint64 ask_again; /* when it is to be tried again; G_MAXINT64: when woken */
    bool end_seen;    /* the client sends nothing more: it has closed, or one direction */
    gint64 probe_at;  /* when one request goes ahead to find out; G_MAXINT64: never */
} Hold;

typedef struct {
    const NbdSession *session;
    Disk *disk;
    Stream *stream;
    PoolAccount *account;
    Engine *engine;
    EngineLane lane;
    IoStats *stats;
    const _Atomic int *stop;
    uint64_t max_requests;
    bool direct; /* the page cache is not used: everything blocks */

    BusyPoll poll;
    Gather gather;
    unsigned taken; /* requests, since it last had nothing to do */
    Input input;
    Output output;
    Incoming incoming;
    DoneQueue done;
    Hold hold;
    size_t front; /* bytes of the input that the request being begun takes */
    unsigned in_flight;
    unsigned overlapping; /* so many more requests go to the engine, alone or not (submit.c) */
    bool quick[OP_COUNT]; /* the last that might block was */
    gint64 now;           /* as of the last thing that was done */
    bool closing;         /* takes no more requests */
} Transmission;

/* What became of an attempt to go on with the input. */
typedef enum {
    TAKEN,   /* go on */
    HUNGRY,  /* more must be received first */
    STALLED, /* something in flight must be done first */
    HELD,    /* the limits of the export let it through later */
} Progress;

static inline bool transmission_is_full(const Transmission *t)
{
    return t->in_flight >= t->max_requests;
}

/* --- begin.c --- */

/* A request whose header is at the front of the input; t->front says so, and is set to more where
 * the request takes more. */
Progress begin_request(Transmission *t, const NbdRequest *wire);

/* --- hold.c: the limits of the export --- */

void hold_init(Hold *hold, Client *client, int wake_fd);
/* Whether the request at the front of the input has to wait. Once it need not, it need not again
 * until hold_next. */
bool hold_back(Transmission *t, const NbdRequest *wire);
/* Gives up its place among those who wait, if it has one. */
void hold_leave(Transmission *t);
static inline void hold_next(Transmission *t)
{
    t->hold.admitted = false;
    if (t->hold.place.queued) /* it was refused in the end: the disk has become smaller */
        hold_leave(t);
}
/* Waits until it may be tried again, something in flight is done, or the connection is to end.
 * False: the client is gone. */
bool hold_wait(Transmission *t);

/* --- payload.c: payloads on their way --- */

/* From here on a payload is worth writing in pieces. */
#define PAYLOAD_STREAMED ((size_t)64 << 10)

/* Receives the payload of a write, all of it not yet here. */
Progress payload_expect(Transmission *t, const NbdRequest *wire);
/* The same for one that may be written as it comes, of PAYLOAD_STREAMED bytes or more. */
Progress payload_expect_stream(Transmission *t, const NbdRequest *wire);
/* Reads away what payload there is, then answers with the error. */
void payload_refuse(Transmission *t, const NbdRequest *wire, uint32_t error, const char *text);
/* Takes what there is of it. */
Progress payload_take(Transmission *t);
void payload_drop(Transmission *t);

/* --- submit.c: requests with memory of their own --- */

Request *submit_new(Transmission *t, const NbdRequest *wire, gint64 started);
/* Lets it be done, here or by the engine. */
void submit_request(Transmission *t, Request *request);
/* written: bytes at its beginning that are on the disk already. */
void submit_write(Transmission *t, const NbdRequest *wire, void *block, size_t block_size,
                  uint64_t written, gint64 started);
/* Answers a list of requests that are done. */
void submit_collect(Transmission *t, Request *list);

/* --- finish.c: answers; each is counted, and moves `now` on --- */

void finish_count(Transmission *t, const NbdRequest *wire, gint64 started, bool good);
void finish_done(Transmission *t, const NbdRequest *wire, gint64 started);
void finish_error(Transmission *t, const NbdRequest *wire, gint64 started, uint32_t error,
                  const char *text);
/* result: of the disk, 0 or a negative errno. */
void finish_result(Transmission *t, const NbdRequest *wire, gint64 started, int result);
/* Frees it. */
void finish_request(Transmission *t, Request *request);
OpKind finish_kind(uint16_t type);

#endif
