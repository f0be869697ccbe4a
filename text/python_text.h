/* python_text.h: what Python calls white space (str.isspace, `\s` of re), since prompts and
 * templates are written for Python programs. */
#ifndef ANNEAL_TEXT_PYTHON_TEXT_H
#define ANNEAL_TEXT_PYTHON_TEXT_H

#include <stdbool.h>
#include <stdint.h>

static inline bool is_python_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

#endif
