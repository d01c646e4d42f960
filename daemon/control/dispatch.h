/* From a line to its answer: scanning, batches, finding the method, access, decoding, running the
 * handler, encoding. Knows no connection: what a call wants of its own (a subscription) comes back
 * as an effect, and whoever has the connection puts it in force. Any thread; it blocks as long as
 * the handlers do. */
#ifndef CONTROL_DISPATCH_H
#define CONTROL_DISPATCH_H

#include "schema/api.h"
#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* Runs actions as one transaction: core's txn_run (daemon/core/txn.h). Results are put into the
 * actions. On failure *ret_failed is the index of the one that was refused, or count. */
typedef bool (*RunActions)(Registry *registry, ApiAction *const *actions, size_t count,
                           gint64 deadline, bool dry_run, size_t *ret_failed, GError **error);

typedef struct {
    Registry *registry;
    const ApiMethod *methods; /* in the order of names */
    size_t method_count;
    RunActions run_actions;
    size_t batch_bytes; /* once the answers to a batch are as long as this, the rest is refused */
} Dispatcher;

typedef struct {
    ApiAccess access;
    uid_t uid;
    pid_t pid;
} Caller;

typedef struct {
    bool subscribe;  /* the rest is a new subscription */
    unsigned topics; /* set of EventTopic */
    uint64_t cursor; /* events after this one */
} Effects;

const ApiMethod *dispatch_find(const Dispatcher *dispatcher, const char *name);

/* Whether every method that the line calls is `inline`, so that it can be run on the main thread.
 * Also true for lines that are refused without running anything. */
bool dispatch_is_inline(const Dispatcher *dispatcher, const char *line, size_t length);

/* Appends the answer to the line, with a line break; nothing when none is due. */
void dispatch_line(const Dispatcher *dispatcher, const Caller *caller, const char *line,
                   size_t length, GString *answer, Effects *ret_effects);

#endif
