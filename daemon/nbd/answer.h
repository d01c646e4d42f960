/* Small answers, encoded into the output. */
#ifndef NBD_ANSWER_H
#define NBD_ANSWER_H

#include "daemon/nbd/output.h"
#include "daemon/nbd/request.h"

void answer_done(Output *output, NbdMode mode, const NbdRequest *wire);
void answer_error(Output *output, NbdMode mode, const NbdRequest *wire, uint32_t error,
                  const char *text);
/* errnum > 0: what a disk answered. offset: where, for a READ. */
void answer_errno(Output *output, NbdMode mode, const NbdRequest *wire, int errnum,
                  uint64_t offset);
/* A chunk that has runs. */
void answer_bitmap(Output *output, NbdMode mode, const StatusChunk *chunk);
/* A request that is done, of any kind. */
void answer_request(Output *output, const Request *request);

#endif
