#include "ctl/units.h"
#include <string.h>

static const char suffixes[] = "KMGTPE";

bool size_parse(const char *text, uint64_t *ret_bytes)
{
    const char *end = text;
    while (g_ascii_isdigit(*end))
        end++;
    g_autofree char *digits = g_strndup(text, (size_t)(end - text));
    guint64 number;
    if (!g_ascii_string_to_unsigned(digits, 10, 0, G_MAXUINT64, &number, NULL))
        return false;
    unsigned shift = 0;
    if (*end != 0) {
        const char *suffix = strchr(suffixes, g_ascii_toupper(*end));
        if (suffix == NULL)
            return false;
        end++;
        if (*end != 0 && strcmp(end, "iB") != 0)
            return false;
        shift = 10 * (unsigned)(suffix - suffixes + 1);
    }
    if (number > G_MAXUINT64 >> shift)
        return false;
    *ret_bytes = number << shift;
    return true;
}

void size_append(GString *out, uint64_t bytes)
{
    unsigned shift = 0;
    while (shift < 60 && bytes >> shift >= 1024)
        shift += 10;
    if (bytes == 0)
        g_string_append_c(out, '0');
    else if (shift == 0)
        g_string_append_printf(out, "%" G_GUINT64_FORMAT " B", bytes);
    else {
        uint64_t whole = bytes >> shift, rest = bytes & ((1ULL << shift) - 1);
        unsigned hundredths = (unsigned)((rest >> (shift - 10)) * 100 / 1024);
        char letter = suffixes[shift / 10 - 1];
        if (rest == 0 || whole >= 100)
            g_string_append_printf(out, "%" G_GUINT64_FORMAT " %ciB", whole, letter);
        else if (whole >= 10 || hundredths % 10 == 0)
            g_string_append_printf(out, "%" G_GUINT64_FORMAT ".%u %ciB", whole, hundredths / 10,
                                   letter);
        else
            g_string_append_printf(out, "%" G_GUINT64_FORMAT ".%02u %ciB", whole, hundredths,
                                   letter);
    }
}

void size_append_exact(GString *out, uint64_t bytes)
{
    size_append(out, bytes);
    if (bytes >= 1024)
        g_string_append_printf(out, " (%" G_GUINT64_FORMAT " bytes)", bytes);
}

void duration_append(GString *out, uint64_t seconds)
{
    uint64_t minutes = seconds / 60, hours = minutes / 60, days = hours / 24;
    if (minutes == 0)
        g_string_append_printf(out, "%" G_GUINT64_FORMAT " s", seconds);
    else if (hours == 0)
        g_string_append_printf(out, "%" G_GUINT64_FORMAT " min %u s", minutes,
                               (unsigned)(seconds % 60));
    else if (days == 0)
        g_string_append_printf(out, "%" G_GUINT64_FORMAT " h %u min", hours,
                               (unsigned)(minutes % 60));
    else
        g_string_append_printf(out, "%" G_GUINT64_FORMAT " d %u h", days, (unsigned)(hours % 24));
}

void latency_append(GString *out, uint64_t microseconds, bool utf8)
{
    if (microseconds < 1000)
        g_string_append_printf(out, "%u %s", (unsigned)microseconds, utf8 ? "µs" : "us");
    else if (microseconds < 1000000)
        g_string_append_printf(out, "%u ms", (unsigned)(microseconds / 1000));
    else
        g_string_append_printf(out, "%" G_GUINT64_FORMAT ".%u s", microseconds / 1000000,
                               (unsigned)(microseconds / 100000 % 10));
}

void percentage_append(GString *out, uint64_t part, uint64_t whole)
{
    if (part >= whole) {
        g_string_append(out, whole == 0 ? "0 %" : "100 %");
        return;
    }
    if (part == 0) {
        g_string_append(out, "0 %");
        return;
    }
    double percent = 100.0 * (double)part / (double)whole;
    if (percent < 0.1)
        g_string_append(out, "below 0.1 %");
    else if (percent > 99.9)
        g_string_append(out, "above 99.9 %");
    else
        g_string_append_printf(out, "%.1f %%", percent);
}
