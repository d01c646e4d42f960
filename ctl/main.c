/* nbdctl: steers nbdd over its control socket. Ends with the status that the contract gives each
 * outcome (errors.h). */
#include "ctl/command_line.h"
#include "ctl/errors.h"
#include <locale.h>

int main(int argc, char **argv)
{
    Terminal terminal;
    g_autoptr(GError) error = NULL;
    setlocale(LC_ALL, "");
    terminal_look(&terminal);
    if (command_line_run(&terminal, argv + (argc > 0), &error))
        return CTL_DONE;
    g_printerr("nbdctl: %s\n", error->message);
    return error->code;
}
