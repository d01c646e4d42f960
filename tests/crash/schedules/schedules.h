/* The schedules: each is a test that holds on its own, and fails under the fault it is for. */
#ifndef SCHEDULES_SCHEDULES_H
#define SCHEDULES_SCHEDULES_H

#define SCHEDULES(X)                                                                               \
    /* writers.c */                                                                                \
    X(a_write_waits_for_its_intent)                                                                \
    X(a_retirement_sees_the_writers_bits)                                                          \
    X(a_retired_region_needs_a_new_intent)                                                         \
    X(retired_bits_are_stored)                                                                     \
    X(every_bitmap_has_the_block)                                                                  \
    X(every_block_of_a_write)                                                                      \
    X(a_trim_is_a_write)                                                                           \
    X(zeroes_are_a_write)                                                                          \
    X(a_process_bitmap_survives_a_kill)                                                            \
    X(durability_none_does_not)                                                                    \
    X(the_store_closes_no_disk)                                                                    \
    /* changes.c */                                                                                \
    X(a_clear_waits_for_writes_in_flight)                                                          \
    X(an_add_waits_for_writes_in_flight)                                                           \
    X(writes_during_the_sync_are_dirty)                                                            \
    X(a_starting_point_is_durable)                                                                 \
    X(a_disabled_bitmap_keeps_its_bits)                                                            \
    X(missed_writes_survive)                                                                       \
    X(a_merge_inherits_missed_writes)                                                              \
    X(growth_is_dirty)                                                                             \
    X(a_map_that_is_too_short_is_not_relied_on)                                                    \
    X(a_failed_sync_is_remembered)                                                                 \
    X(flushed_data_is_durable)                                                                     \
    X(fua_data_is_durable)                                                                         \
    /* recovery.c */                                                                               \
    X(a_doubtful_intent_does_not_count)                                                            \
    X(a_failed_commit_is_not_undone)                                                               \
    X(a_failed_commit_is_not_done)                                                                 \
    X(every_intent_is_recovered)                                                                   \
    X(every_sibling_is_recovered)                                                                  \
    X(an_intent_outlives_the_power)                                                                \
    X(given_up_bitmaps_stay_invalid)                                                               \
    X(what_cannot_be_given_up_is_not_written)                                                      \
    X(a_bitmap_added_in_doubt_is_not_clean)                                                        \
    X(an_invalid_bitmap_cleared_in_doubt_is_not_clean)                                             \
    X(writes_wait_for_the_end_of_a_doubt)                                                          \
    X(what_was_cleared_in_doubt_is_given_up)                                                       \
    X(the_clean_flag_goes_first)                                                                   \
    X(a_late_write_holds_the_lock)

#define SCHEDULE_DECLARE(name) void name(void **state);
SCHEDULES(SCHEDULE_DECLARE)

#endif
