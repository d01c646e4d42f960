/* What happened, in order: a ring of the last events, from which any number of readers pull.
 *
 * An event says which object changed and how; whoever wants the rest asks for it. Each has a
 * sequence number that only rises, also over restarts (it starts from the clock). A reader keeps
 * the number it has read up to; what it was too slow to read is announced as a lost range. So a
 * subscriber that never reads costs nothing.
 *
 * Thread-safe, nothing blocks. The lock is innermost: events_post may be called under the
 * registry's. */
#ifndef CORE_EVENTS_H
#define CORE_EVENTS_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Events Events;

typedef enum {
    TOPIC_DAEMON,
    TOPIC_DISK,
    TOPIC_EXPORT,
    TOPIC_BITMAP,
    TOPIC_LISTENER,
    TOPIC_CLIENT,
    TOPIC_TLS,
} EventTopic;
#define TOPIC_COUNT 7
#define TOPIC_ALL   ((1u << TOPIC_COUNT) - 1) /* a set of topics has bit 1 << topic */

typedef struct {
    uint64_t seq;
    int64_t time; /* microseconds since 1970, UTC */
    EventTopic topic;
    const char *event; /* a string constant: "added", "removed", "changed"... */
    char *name;        /* of the object; NULL for clients and the daemon */
    char *disk;        /* of a bitmap or an export, else NULL */
    char *export_name; /* of a client that has one, else NULL */
    uint64_t id;       /* of a client, else 0 */
    char *detail;      /* a sentence, or NULL */
    char *invalid;     /* of a bitmap that has become invalid: why; else NULL */
} Event;

const char *event_topic_name(EventTopic topic);
bool event_topic_parse(const char *name, EventTopic *ret_topic);
void event_free(Event *event);

Events *events_new(size_t capacity);
void events_free(Events *events); /* takes NULL; nobody uses it any more */

/* Any of the strings but event may be NULL; they are copied. */
void events_post(Events *events, EventTopic topic, const char *event, const char *name,
                 const char *disk, const char *detail);
void events_post_client(Events *events, const char *event, uint64_t id, const char *export_name,
                        const char *detail);

void events_post_invalid(Events *events, const char *bitmap, const char *disk, const char *reason);

/* The number of the newest event; a new reader that wants no history starts from it. */
uint64_t events_last(Events *events);

typedef struct {
    uint64_t lost_first, lost_last; /* both 0: nothing was lost before the events that follow */
    size_t count;                   /* events appended */
} EventsRead;

/* Appends copies (Event *) of at most max events after *cursor on the topics to list, in order,
 * and moves *cursor behind what it has looked at. A cursor from before the ring's oldest event has
 * lost the range that is reported (of all topics: which they were is not known any more). */
EventsRead events_read(Events *events, uint64_t *cursor, unsigned topics, size_t max,
                       GPtrArray *list);

/* wake runs after each post on the poster's thread, with the ring's lock held (and perhaps the
 * registry's): it only wakes somebody who then reads. After events_unwatch it never runs again. */
typedef void (*EventsWake)(gpointer data);
guint events_watch(Events *events, EventsWake wake, gpointer data);
void events_unwatch(Events *events, guint watch);

#endif
