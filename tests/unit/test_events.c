/* The ring of events: order, topics, what is lost, and waking. */
#include "daemon/core/events.h"
#include "tests/unit/check.h"

static GPtrArray *new_list(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)event_free);
}

static const Event *at(GPtrArray *list, guint i)
{
    return list->pdata[i];
}

static void test_order_and_contents(void **state)
{
    Events *events = events_new(8);
    uint64_t cursor = events_last(events), start = cursor;
    events_post(events, TOPIC_BITMAP, "added", "b0", "vm1", "why");
    events_post_client(events, "attached", 7, "vm1-export", NULL);
    g_autoptr(GPtrArray) list = new_list();
    EventsRead read = events_read(events, &cursor, TOPIC_ALL, 10, list);
    assert_int_equal(read.count, 2);
    assert_int_equal(read.lost_first, 0);
    assert_int_equal(cursor, start + 2);
    assert_int_equal(at(list, 0)->seq, start + 1);
    assert_int_equal(at(list, 0)->topic, TOPIC_BITMAP);
    assert_string_equal(at(list, 0)->event, "added");
    assert_string_equal(at(list, 0)->name, "b0");
    assert_string_equal(at(list, 0)->disk, "vm1");
    assert_string_equal(at(list, 0)->detail, "why");
    assert_int_equal(at(list, 1)->id, 7);
    assert_string_equal(at(list, 1)->export_name, "vm1-export");
    assert_null(at(list, 1)->name);
    assert_int_equal(events_read(events, &cursor, TOPIC_ALL, 10, list).count, 0);
    events_free(events);
}

static void test_topics_and_bound(void **state)
{
    Events *events = events_new(16);
    uint64_t cursor = events_last(events);
    for (int i = 0; i < 4; i++) {
        events_post(events, TOPIC_DISK, "added", "d", NULL, NULL);
        events_post(events, TOPIC_EXPORT, "added", "e", "d", NULL);
    }
    g_autoptr(GPtrArray) list = new_list();
    assert_int_equal(events_read(events, &cursor, 1u << TOPIC_EXPORT, 3, list).count, 3);
    assert_int_equal(events_read(events, &cursor, 1u << TOPIC_EXPORT, 3, list).count, 1);
    for (guint i = 0; i < list->len; i++)
        assert_int_equal(at(list, i)->topic, TOPIC_EXPORT);
    assert_int_equal(cursor, events_last(events));
    events_free(events);
}

static void test_lost_range(void **state)
{
    Events *events = events_new(4);
    uint64_t start = events_last(events), cursor = start;
    for (int i = 0; i < 10; i++)
        events_post(events, TOPIC_DISK, "changed", "d", NULL, NULL);
    g_autoptr(GPtrArray) list = new_list();
    EventsRead read = events_read(events, &cursor, TOPIC_ALL, 100, list);
    assert_int_equal(read.lost_first, start + 1);
    assert_int_equal(read.lost_last, start + 6);
    assert_int_equal(read.count, 4);
    assert_int_equal(at(list, 0)->seq, start + 7);
    /* Exactly as many as fit: nothing is lost. */
    for (int i = 0; i < 4; i++)
        events_post(events, TOPIC_DISK, "changed", "d", NULL, NULL);
    read = events_read(events, &cursor, TOPIC_ALL, 100, list);
    assert_int_equal(read.lost_first, 0);
    assert_int_equal(read.count, 4);
    events_free(events);
}

static void test_lost_is_told_even_with_no_room(void **state)
{
    Events *events = events_new(2);
    uint64_t start = events_last(events), cursor = start;
    for (int i = 0; i < 3; i++)
        events_post(events, TOPIC_DISK, "changed", "d", NULL, NULL);
    g_autoptr(GPtrArray) list = new_list();
    EventsRead read = events_read(events, &cursor, TOPIC_ALL, 0, list);
    assert_int_equal(read.lost_last, start + 1);
    assert_int_equal(read.count, 0);
    read = events_read(events, &cursor, TOPIC_ALL, 9, list);
    assert_int_equal(read.lost_last, 0);
    assert_int_equal(read.count, 2);
    events_free(events);
}

static void test_old_and_future_cursors(void **state)
{
    Events *events = events_new(4);
    g_autoptr(GPtrArray) list = new_list();
    uint64_t start = events_last(events), cursor = 5; /* from the life of an earlier daemon */
    events_post(events, TOPIC_DAEMON, "started", NULL, NULL, NULL);
    EventsRead read = events_read(events, &cursor, TOPIC_ALL, 9, list);
    assert_int_equal(read.lost_first, 6);
    assert_int_equal(read.lost_last, start);
    assert_int_equal(read.count, 1);
    cursor = UINT64_MAX;
    read = events_read(events, &cursor, TOPIC_ALL, 9, list);
    assert_int_equal(read.count, 0);
    assert_int_equal(read.lost_last, 0);
    events_post(events, TOPIC_DAEMON, "stopping", NULL, NULL, NULL);
    assert_int_equal(events_read(events, &cursor, TOPIC_ALL, 9, list).count, 1);
    events_free(events);
}

static void count_wake(gpointer data)
{
    (*(int *)data)++;
}

static void test_watches(void **state)
{
    Events *events = events_new(4);
    int first = 0, second = 0;
    guint a = events_watch(events, count_wake, &first);
    guint b = events_watch(events, count_wake, &second);
    events_post(events, TOPIC_DAEMON, "started", NULL, NULL, NULL);
    events_unwatch(events, a);
    events_post(events, TOPIC_DAEMON, "started", NULL, NULL, NULL);
    events_unwatch(events, b);
    events_post(events, TOPIC_DAEMON, "started", NULL, NULL, NULL);
    assert_int_equal(first, 1);
    assert_int_equal(second, 2);
    events_free(events);
}

static void test_topic_names(void **state)
{
    for (int i = 0; i < TOPIC_COUNT; i++) {
        EventTopic topic;
        assert_true(event_topic_parse(event_topic_name((EventTopic)i), &topic));
        assert_int_equal(topic, i);
    }
    EventTopic untouched = TOPIC_DISK;
    assert_false(event_topic_parse("disks", &untouched));
    assert_int_equal(untouched, TOPIC_DISK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_contents),
        cmocka_unit_test(test_topics_and_bound),
        cmocka_unit_test(test_lost_range),
        cmocka_unit_test(test_lost_is_told_even_with_no_room),
        cmocka_unit_test(test_old_and_future_cursors),
        cmocka_unit_test(test_watches),
        cmocka_unit_test(test_topic_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
