/* What a connection has subscribed to, and events as JSON-RPC notifications.
 *
 * A subscription is a place in the ring of events (core/events.h). It is pulled from when the
 * connection has sent what it had to send, so a subscriber that does not read costs nothing and
 * finds out what it has lost. Main thread. */
#ifndef CONTROL_SUBSCRIPTION_H
#define CONTROL_SUBSCRIPTION_H

#include "daemon/control/dispatch.h"
#include "daemon/core/events.h"

typedef struct {
    bool active;
    unsigned topics; /* set of EventTopic */
    uint64_t cursor;
} Subscription;

/* Puts in force what a call asked for, if it did. */
void subscription_apply(Subscription *subscription, const Effects *effects);

/* Appends events that are due, one line each, until there are none or out has `enough` bytes. */
void subscription_pull(Subscription *subscription, Events *events, GString *out, size_t enough);

#endif
