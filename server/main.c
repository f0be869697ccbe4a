/* main.c: the one binary. Everything is below. */
#include "cli.h"

int main(int argc, char **argv)
{
    return cli_main(argc, argv);
}
