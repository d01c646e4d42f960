/* schedules            runs all of them
 * schedules NAME       one (a pattern of cmocka's)
 * schedules --list     names them */
#include "tests/crash/schedules/schedules.h"
#include "tests/unit/check.h"
#include "tests/unit/sick_vfs.h"
#include <stdio.h>
#include <string.h>

#define TEST(name) cmocka_unit_test(name),
#define LINE(name) #name "\n"

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {SCHEDULES(TEST)};
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        fputs(SCHEDULES(LINE), stdout);
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    sick_vfs_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
