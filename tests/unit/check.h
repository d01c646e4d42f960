/* cmocka, with the headers that it wants before it, in the order that it wants. */
#ifndef UNIT_CHECK_H
#define UNIT_CHECK_H

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#endif
