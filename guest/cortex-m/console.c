/*
 * Text on the board's UART: a CMSDK APB UART (Arm DDI 0479, "APB UART")
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#include <stdarg.h>

#include "board.h"
#include "console.h"
#include "cortex_m.h"

#define UART_DATA CORTEX_M_REGISTER(BOARD_UART + 0x00)
#define UART_STATE CORTEX_M_REGISTER(BOARD_UART + 0x04)
#define UART_STATE_TXFULL 1u
#define UART_CTRL CORTEX_M_REGISTER(BOARD_UART + 0x08)
#define UART_CTRL_TX_EN 1u
#define UART_BAUDDIV CORTEX_M_REGISTER(BOARD_UART + 0x10)
#define UART_BAUDDIV_MIN 16u

void console_init(void)
{
    UART_BAUDDIV = UART_BAUDDIV_MIN;
    UART_CTRL = UART_CTRL_TX_EN;
}

static void put_char(char c)
{
    UART_DATA = (uint8_t)c;
    /* gone before we go on: the machine may end right afterwards */
    while (UART_STATE & UART_STATE_TXFULL) {
    }
}

static void put_string(const char *s)
{
    while (*s) {
        put_char(*s++);
    }
}

static void put_decimal(unsigned value)
{
    char digits[11];
    char *p = digits + sizeof(digits);

    *--p = '\0';
    do {
        *--p = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    put_string(p);
}

static void put_hex(unsigned value)
{
    int shift;

    put_string("0x");
    for (shift = 28; shift >= 0; shift -= 4) {
        put_char("0123456789abcdef"[value >> shift & 15]);
    }
}

void print(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    for (; *format; format++) {
        if (*format == '\n') {
            put_string("\r\n");
        } else if (*format != '%') {
            put_char(*format);
        } else if (*++format == 's') {
            put_string(va_arg(args, const char *));
        } else if (*format == 'u') {
            put_decimal(va_arg(args, unsigned));
        } else if (*format == 'x') {
            put_hex(va_arg(args, unsigned));
        } else {
            put_char(*format);
        }
    }
    va_end(args);
}
