#include "daemon/nbd/read.h"
#include "daemon/nbd/answer.h"
#include <errno.h>
#include <string.h>

/* From here on data is sent from where it lies, below it is copied together with other replies. */
#define COPY_LIMIT ((size_t)16 << 10)
/* A piece of data that goes through the output's buffer, with its head, in whole pages. */
#define PIECE_OF(buffer) (((buffer)-NBD_MAX_REPLY_HEADER) & ~(size_t)4095)

/* --- the plan --- */

void read_plan(const NbdSession *session, const NbdRequest *wire, ReadPlan *ret_plan)
{
    uint64_t offset = wire->offset, end = offset + wire->length;
    bool whole = session->mode == NBD_MODE_SIMPLE || (wire->flags & NBD_CMD_FLAG_DF) != 0 ||
                 wire->length < READ_WITH_HOLES;
    ret_plan->count = 0;
    while (offset < end) {
        uint64_t length = end - offset;
        bool hole = false;
        bool last = ret_plan->count == READ_RUNS - 1;
        /* What cannot be told, and what is left of a fragmented read, is data. */
        if (!whole && !last &&
            disk_run_to_read(session->view.disk, offset, end - offset, &length, &hole) < 0)
            length = end - offset;
        ret_plan->runs[ret_plan->count++] = (ReadRun){.length = (uint32_t)length, .hole = hole};
        offset += length;
    }
}

/* --- answering from the disk --- */

typedef struct {
    Output *output;
    const NbdSession *session;
    const NbdRequest *wire;
    bool splice;
    bool one_chunk; /* the answer is one piece: simple, or DF */
    bool may_block;
    bool started; /* something has been answered: there is no way back */
} Reading;

/* Zeroes for what a chunk has promised ("NBD_CMD_READ": padding), and no more from this
 * connection if the client could not tell them from data. */
static void pad(Reading *reading, uint64_t length)
{
    if (reading->session->mode == NBD_MODE_SIMPLE) {
        reading->output->broken = true;
        return;
    }
    while (length > 0) {
        size_t n = (size_t)MIN(length, OUTPUT_SMALL);
        uint8_t *room = output_room(reading->output, n);
        if (room == NULL)
            return;
        memset(room, 0, n);
        output_add(reading->output, n);
        length -= n;
    }
}

/* A head of head_length bytes is encoded when the data is at hand, so that an error is met before
 * it has gone out. promised: what the chunk is said to hold, 0 when its head has gone. */
static ssize_t send_piece(Reading *reading, uint64_t offset, uint64_t left, bool new_chunk,
                          uint64_t promised, bool last)
{
    Output *output = reading->output;
    const NbdSession *session = reading->session;
    uint8_t *room;
    size_t head = 0;

    if (reading->splice) {
        size_t most = output_pipe_room(output, offset);
        ssize_t loaded = output_pipe_load(output, disk_backend(session->view.disk)->fd, offset,
                                          (size_t)MIN(left, most));
        if (loaded < 0)
            return loaded;
        if (new_chunk) {
            uint64_t length = promised ? promised : (uint64_t)loaded;
            bool done = last && length == (uint64_t)loaded && (uint64_t)loaded == left;
            room = output_room(output, NBD_MAX_REPLY_HEADER);
            if (room != NULL)
                output_add(output, nbd_encode_data(session->mode, room, reading->wire, offset,
                                                   (uint32_t)length, done));
        }
        output_pipe_send(output, (size_t)loaded);
        return loaded;
    }

    size_t want = (size_t)MIN(left, PIECE_OF(OUTPUT_LARGE));
    /* The pieces of one answer may be held together; other answers do not wait for this one. */
    if (reading->started && output_left(output) < want + NBD_MAX_REPLY_HEADER)
        output_flush(output, true);
    room = output_room(output, want + NBD_MAX_REPLY_HEADER);
    if (room == NULL && !output->broken) {
        want = (size_t)MIN(left, PIECE_OF(OUTPUT_SMALL));
        room = output_room(output, want + NBD_MAX_REPLY_HEADER);
    }
    if (room == NULL)
        return -EPIPE;
    if (new_chunk) {
        uint64_t length = promised ? promised : want;
        bool done = last && length == want && want == left;
        head = nbd_encode_data(session->mode, room, reading->wire, offset, (uint32_t)length, done);
    }
    int result = disk_pread(session->view.disk, room + head, want, offset,
                            reading->may_block || reading->started ? 0 : IO_NOWAIT);
    if (result < 0)
        return result;
    output_add(output, head + want);
    return (ssize_t)want;
}

/* A run of data, in one chunk or in as many as it takes pieces. */
static int send_data(Reading *reading, uint64_t offset, uint64_t length, bool last)
{
    uint64_t done = 0;
    while (done < length) {
        /* Nobody hears the rest; and without a pipe, which went with what was in it, a splice that
         * is under way would never move anything again. */
        if (reading->output->broken)
            return -EPIPE;
        bool new_chunk = !reading->one_chunk || done == 0;
        ssize_t n = send_piece(reading, offset + done, length - done, new_chunk,
                               reading->one_chunk ? length : 0, last);
        if (n == -EAGAIN && !reading->may_block && !reading->started)
            return -EAGAIN;
        if (n == -EAGAIN && reading->splice) {
            reading->splice = false; /* what cannot be spliced now can be read */
            continue;
        }
        if (n < 0) {
            if (reading->one_chunk && done > 0)
                pad(reading, length - done);
            answer_errno(reading->output, reading->session->mode, reading->wire, (int)-n,
                         offset + done);
            return n == -EAGAIN ? -EIO : (int)n; /* it has been answered */
        }
        reading->started = true;
        done += (uint64_t)n;
        /* One chunk that took several pieces could not say that it is the last one. */
        if (reading->one_chunk && done == length && (uint64_t)n < length &&
            reading->session->mode != NBD_MODE_SIMPLE)
            answer_done(reading->output, reading->session->mode, reading->wire);
    }
    return 0;
}

static void send_hole(Reading *reading, uint64_t offset, uint32_t length, bool last)
{
    uint8_t *room = output_room(reading->output, NBD_MAX_REPLY_HEADER);
    if (room != NULL)
        output_add(reading->output, nbd_encode_hole(reading->session->mode, room, reading->wire,
                                                    offset, length, last));
    reading->started = true;
}

/* A splice cannot be asked not to wait for the disk, and what comes after the first piece of an
 * answer may not give up any more: whether they would wait is told by the first and the last byte
 * of each run. */
static bool is_cached(const NbdSession *session, const NbdRequest *wire, const ReadPlan *plan)
{
    uint64_t offset = wire->offset;
    for (unsigned i = 0; i < plan->count; i++) {
        uint32_t length = plan->runs[i].length;
        char byte;
        if (!plan->runs[i].hole &&
            (disk_pread(session->view.disk, &byte, 1, offset, IO_NOWAIT) == -EAGAIN ||
             disk_pread(session->view.disk, &byte, 1, offset + length - 1, IO_NOWAIT) == -EAGAIN))
            return false;
        offset += length;
    }
    return true;
}

int read_here(Output *output, const NbdSession *session, const NbdRequest *wire,
              const ReadPlan *plan, bool may_block)
{
    Reading reading = {
        .output = output,
        .session = session,
        .wire = wire,
        .one_chunk = session->mode == NBD_MODE_SIMPLE || (wire->flags & NBD_CMD_FLAG_DF) != 0,
        .may_block = may_block,
    };
    reading.splice = wire->length >= READ_SPLICED && disk_backend(session->view.disk)->splice_ok &&
                     output_pipe_room(output, wire->offset) > 0;
    bool pieces = reading.splice || plan->count > 1 || wire->length > PIECE_OF(OUTPUT_LARGE);
    if (pieces && !may_block && !is_cached(session, wire, plan))
        return -EAGAIN;
    uint64_t offset = wire->offset;
    for (unsigned i = 0; i < plan->count; i++) {
        const ReadRun *run = &plan->runs[i];
        bool last = i + 1 == plan->count;
        if (run->hole) {
            send_hole(&reading, offset, run->length, last);
        } else {
            int result = send_data(&reading, offset, run->length, last);
            if (result < 0)
                return result;
        }
        offset += run->length;
    }
    return 0;
}

/* --- answering from memory --- */

void read_answer(Output *output, const Request *request)
{
    const NbdSession *session = request->session;
    const NbdRequest *wire = &request->wire;
    uint64_t offset = wire->offset;
    const uint8_t *data = request->block;

    for (unsigned i = 0; i < request->plan.count; i++) {
        const ReadRun *run = &request->plan.runs[i];
        bool last = i + 1 == request->plan.count;
        bool copy = !run->hole && run->length <= COPY_LIMIT;
        uint8_t *room = output_room(output, NBD_MAX_REPLY_HEADER + (copy ? run->length : 0));
        if (room == NULL)
            return;
        if (run->hole) {
            output_add(output,
                       nbd_encode_hole(session->mode, room, wire, offset, run->length, last));
        } else {
            size_t head = nbd_encode_data(session->mode, room, wire, offset, run->length, last);
            output_add(output, head);
            if (copy) {
                memcpy(room + head, data, run->length);
                output_add(output, run->length);
            } else {
                output_send(output, data, run->length);
            }
        }
        offset += run->length;
        data += run->length;
    }
}
