/* JSON-RPC 2.0 requests and answers as text: taking envelopes apart, putting answers together.
 * Specification: jsonrpc.org, sections 4 to 6. Stricter in one thing: members that it does not
 * name are refused. */
#ifndef CONTROL_REQUEST_H
#define CONTROL_REQUEST_H

#include "daemon/control/scan.h"
#include "schema/api.h"

/* Why a request is refused. path: a JSON pointer into the request, "" for all of it. */
typedef struct {
    ErrorKind kind;
    char *path, *text;
} Fault;
void fault_clear(Fault *fault);

typedef struct {
    Slice id;          /* raw: it is echoed as it came; length 0: none */
    char *method;      /* decoded */
    Slice params;      /* an object; length 0: none given */
    bool notification; /* no id: nothing is answered, unless it is no request at all */
} Request;

/* Takes one request apart. findings: those of the whole text, in order. On failure ret_fault says
 * why, and ret_request has the id (if it could be told) and `notification`, nothing else. */
bool request_parse(Slice text, const GArray *findings, Request *ret_request, Fault *ret_fault);
void request_clear(Request *request);

/* Begin and end of an answer around the JSON of its result. An empty id is null. */
void reply_begin_result(GString *out, Slice id);
void reply_end(GString *out);
/* A whole answer. */
void reply_fault(GString *out, Slice id, const Fault *fault);

#endif
