/* READ on the connection's own thread: what is in the page cache is answered at once, large data
 * without a copy. */
#ifndef NBD_READ_H
#define NBD_READ_H

#include "daemon/nbd/output.h"
#include "daemon/nbd/request.h"

/* Reads from here on are spliced: below it a copy is cheaper than the calls that this takes. */
#define READ_SPLICED (64u << 10)
/* Reads from here on are looked through for holes. Asking costs a 4 KiB read from the page cache
 * a quarter to a third more processor time. */
#define READ_WITH_HOLES (32u << 10)

/* Which parts of the read are sent as holes. */
void read_plan(const NbdSession *session, const NbdRequest *wire, ReadPlan *ret_plan);

/* Answers the request. 0, or the negative errno that it was answered with. -EAGAIN (never with
 * may_block): it would block, and nothing has been answered. */
int read_here(Output *output, const NbdSession *session, const NbdRequest *wire,
              const ReadPlan *plan, bool may_block);

/* Answers a request that was done by request_run. */
void read_answer(Output *output, const Request *request);

#endif
