#include "daemon/control/subscription.h"

#include <inttypes.h>
#include <time.h>

/* Events taken from the ring at once. */
#define PULLED 32

void subscription_apply(Subscription *subscription, const Effects *effects)
{
    if (effects->subscribe)
        *subscription = (Subscription){true, effects->topics, effects->cursor};
}

/* 2025-05-01T08:00:00.000000Z */
static void append_time(GString *out, int64_t microseconds)
{
    time_t seconds = (time_t)(microseconds / G_USEC_PER_SEC);
    struct tm parts;
    char text[32];
    gmtime_r(&seconds, &parts);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    g_string_append_printf(out, "\"%s.%06dZ\"", text, (int)(microseconds % G_USEC_PER_SEC));
}

static void begin_notification(GString *out, uint64_t seq, EventTopic topic, const char *event,
                               int64_t time)
{
    g_string_append_printf(out,
                           "{\"jsonrpc\":\"2.0\",\"method\":\"event\",\"params\":{\"seq\":%" PRIu64
                           ",\"topic\":\"%s\",\"event\":\"%s\",\"time\":",
                           seq, event_topic_name(topic), event);
    append_time(out, time);
}

static void append_event(GString *out, const Event *event)
{
    EventObject object = {
        .name = event->name,
        .disk = event->disk,
        .has_id = event->topic == TOPIC_CLIENT,
        .id = event->id,
        .export = event->export_name,
        .detail = event->detail,
        .has_state = event->invalid != NULL,
        .state = API_BITMAP_STATE_INVALID,
        .reason = event->invalid,
    };
    begin_notification(out, event->seq, event->topic, event->event, event->time);
    g_string_append(out, ",\"object\":");
    api_encode(&api_event_object, &object, out);
    g_string_append(out, "}}\n");
}

static void append_lost(GString *out, uint64_t first, uint64_t last)
{
    begin_notification(out, last, TOPIC_DAEMON, "lost", g_get_real_time());
    g_string_append_printf(out, ",\"object\":{},\"first\":%" PRIu64 ",\"last\":%" PRIu64 "}}\n",
                           first, last);
}

void subscription_pull(Subscription *subscription, Events *events, GString *out, size_t enough)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func((GDestroyNotify)event_free);
    while (subscription->active && out->len < enough) {
        g_ptr_array_set_size(list, 0);
        EventsRead got =
            events_read(events, &subscription->cursor, subscription->topics, PULLED, list);
        if (got.lost_last > 0)
            append_lost(out, got.lost_first, got.lost_last);
        for (guint i = 0; i < list->len; i++)
            append_event(out, list->pdata[i]);
        if (got.count < PULLED)
            break;
    }
}
