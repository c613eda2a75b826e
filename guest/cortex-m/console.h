/*
 * Text on the board's UART
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef CONSOLE_H
#define CONSOLE_H

#ifdef __cplusplus
extern "C" {
#endif

/** console_init: switch the UART on */
void console_init(void);

/**
 * print: a small printf
 *
 * @format: knows %s, %u (unsigned), %x (unsigned, as 0x and eight digits)
 *          and %%
 *
 * Returns when the UART has taken the last character over to the other side.
 */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

#ifdef __cplusplus
}
#endif

#endif /* CONSOLE_H */
