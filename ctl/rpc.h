/* One JSON-RPC 2.0 call over the socket. */
#ifndef CTL_RPC_H
#define CTL_RPC_H

#include "ctl/json.h"
#include "ctl/options.h"
#include "ctl/socket.h"
#include "schema/cli.h"

/* The daemon's answer: its text and the result object in it. */
typedef struct Answer {
    JsonText *text;
    const Json *result;
} Answer;

void answer_clear(Answer *answer);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Answer, answer_clear)

/* Connects as the options say. */
Socket *rpc_open(const Options *options, GError **error);

/* Calls a method; params is a JSON text on one line. known: its row in the schema, or NULL; it
 * serves for messages. Errors: those of socket.h, and what the daemon refuses (errors.h). */
bool rpc_call(Socket *socket, const char *method, const CliMethod *known, const char *params,
              Answer *ret_answer, GError **error);

/* CTL_UNREACHABLE: what answers is not nbdd, or is broken. Answers false. */
bool rpc_fail_garbage(const Socket *socket, const char *problem, GError **error);

/* The next notification of a stream; ret_answer->result is its params. */
bool rpc_notification(Socket *socket, Answer *ret_answer, GError **error);

#endif
