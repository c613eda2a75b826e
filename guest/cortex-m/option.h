/*
 * The words that QEMU was started with
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef OPTION_H
#define OPTION_H

#include <stdint.h>

/**
 * option: a number from the command line
 *
 * @line: from semihosting_command_line()
 * @name: of the option, between a space and '=', as in " peers="
 * @otherwise: what to return if it is not there
 */
static inline uint32_t option(const char *line, const char *name,
                              uint32_t otherwise)
{
    for (; *line; line++) {
        const char *l = line, *n = name;

        while (*n && *l == *n) {
            l++;
            n++;
        }
        if (!*n && *l >= '0' && *l <= '9') {
            for (otherwise = 0; *l >= '0' && *l <= '9'; l++) {
                otherwise = otherwise * 10 + (uint32_t)(*l - '0');
            }
        }
    }
    return otherwise;
}

#endif /* OPTION_H */
