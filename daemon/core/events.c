#include "daemon/core/events.h"
#include <pthread.h>

typedef struct {
    guint id;
    EventsWake wake;
    gpointer data;
} Watch;

struct Events {
    pthread_mutex_t lock;
    Event **ring; /* slot of event s: (s - first) % capacity */
    size_t capacity;
    uint64_t first; /* number of the first event ever posted to this ring */
    uint64_t last;  /* newest; first - 1 while there is none */
    GArray *watches;
    guint next_watch;
};

static const char *const topic_names[TOPIC_COUNT] = {
    [TOPIC_DAEMON] = "daemon", [TOPIC_DISK] = "disk",         [TOPIC_EXPORT] = "export",
    [TOPIC_BITMAP] = "bitmap", [TOPIC_LISTENER] = "listener", [TOPIC_CLIENT] = "client",
    [TOPIC_TLS] = "tls",
};

const char *event_topic_name(EventTopic topic)
{
    return topic_names[topic];
}

bool event_topic_parse(const char *name, EventTopic *ret_topic)
{
    for (int i = 0; i < TOPIC_COUNT; i++) {
        if (g_str_equal(name, topic_names[i])) {
            *ret_topic = (EventTopic)i;
            return true;
        }
    }
    return false;
}

void event_free(Event *event)
{
    if (!event)
        return;
    g_free(event->name);
    g_free(event->disk);
    g_free(event->export_name);
    g_free(event->detail);
    g_free(event->invalid);
    g_free(event);
}

static Event *event_copy(const Event *from)
{
    Event *event = g_new(Event, 1);
    *event = *from;
    event->name = g_strdup(from->name);
    event->disk = g_strdup(from->disk);
    event->export_name = g_strdup(from->export_name);
    event->detail = g_strdup(from->detail);
    event->invalid = g_strdup(from->invalid);
    return event;
}

Events *events_new(size_t capacity)
{
    Events *events = g_new0(Events, 1);
    pthread_mutex_init(&events->lock, NULL);
    events->capacity = MAX(capacity, 1);
    events->ring = g_new0(Event *, events->capacity);
    /* Milliseconds since 1970: numbers rise over restarts as long as a daemon posts fewer than a
     * thousand events a second over its life, and stay exact in a JSON double. */
    events->first = (uint64_t)g_get_real_time() / 1000;
    events->last = events->first - 1;
    events->watches = g_array_new(FALSE, FALSE, sizeof(Watch));
    return events;
}

void events_free(Events *events)
{
    if (!events)
        return;
    for (size_t i = 0; i < events->capacity; i++)
        event_free(events->ring[i]);
    g_free(events->ring);
    g_array_unref(events->watches);
    pthread_mutex_destroy(&events->lock);
    g_free(events);
}

static Event **slot_of(Events *events, uint64_t seq)
{
    return &events->ring[(seq - events->first) % events->capacity];
}

static void post(Events *events, Event *event)
{
    event->time = g_get_real_time();
    pthread_mutex_lock(&events->lock);
    event->seq = ++events->last;
    Event **slot = slot_of(events, event->seq);
    event_free(*slot);
    *slot = event;
    for (guint i = 0; i < events->watches->len; i++) {
        Watch *watch = &g_array_index(events->watches, Watch, i);
        watch->wake(watch->data);
    }
    pthread_mutex_unlock(&events->lock);
}

void events_post(Events *events, EventTopic topic, const char *event, const char *name,
                 const char *disk, const char *detail)
{
    Event from = {.topic = topic,
                  .event = event,
                  .name = (char *)name,
                  .disk = (char *)disk,
                  .detail = (char *)detail};
    post(events, event_copy(&from));
}

void events_post_client(Events *events, const char *event, uint64_t id, const char *export_name,
                        const char *detail)
{
    Event from = {.topic = TOPIC_CLIENT,
                  .event = event,
                  .id = id,
                  .export_name = (char *)export_name,
                  .detail = (char *)detail};
    post(events, event_copy(&from));
}

void events_post_invalid(Events *events, const char *bitmap, const char *disk, const char *reason)
{
    g_autofree char *detail = g_strconcat("invalid: ", reason, NULL);
    Event from = {.topic = TOPIC_BITMAP,
                  .event = "changed",
                  .name = (char *)bitmap,
                  .disk = (char *)disk,
                  .detail = detail,
                  .invalid = (char *)reason};
    post(events, event_copy(&from));
}

uint64_t events_last(Events *events)
{
    pthread_mutex_lock(&events->lock);
    uint64_t last = events->last;
    pthread_mutex_unlock(&events->lock);
    return last;
}

EventsRead events_read(Events *events, uint64_t *cursor, unsigned topics, size_t max,
                       GPtrArray *list)
{
    EventsRead answer = {0};
    pthread_mutex_lock(&events->lock);
    uint64_t oldest = events->first;
    if (events->last - events->first >= events->capacity && events->last >= events->first)
        oldest = events->last - events->capacity + 1;
    if (*cursor > events->last)
        *cursor = events->last; /* a number from the future says nothing about the past */
    if (*cursor + 1 < oldest) {
        answer.lost_first = *cursor + 1;
        answer.lost_last = oldest - 1;
        *cursor = oldest - 1;
    }
    while (*cursor < events->last && answer.count < max) {
        Event *event = *slot_of(events, ++*cursor);
        if (topics & (1u << event->topic)) {
            g_ptr_array_add(list, event_copy(event));
            answer.count++;
        }
    }
    pthread_mutex_unlock(&events->lock);
    return answer;
}

guint events_watch(Events *events, EventsWake wake, gpointer data)
{
    pthread_mutex_lock(&events->lock);
    Watch watch = {.id = ++events->next_watch, .wake = wake, .data = data};
    g_array_append_val(events->watches, watch);
    pthread_mutex_unlock(&events->lock);
    return watch.id;
}

void events_unwatch(Events *events, guint id)
{
    pthread_mutex_lock(&events->lock);
    for (guint i = 0; i < events->watches->len; i++) {
        if (g_array_index(events->watches, Watch, i).id == id) {
            g_array_remove_index(events->watches, i);
            break;
        }
    }
    pthread_mutex_unlock(&events->lock);
}
