/*
 * Arm semihosting: what the firmware asks of QEMU, which needs -semihosting
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stdint.h>

#define SEMIHOSTING_SYS_GET_CMDLINE 0x15
#define SEMIHOSTING_SYS_EXIT_EXTENDED 0x20
#define SEMIHOSTING_ADP_STOPPED_APPLICATION_EXIT 0x20026

static inline uint32_t semihosting_call(uint32_t operation, void *block)
{
    register uint32_t r0 __asm__("r0") = operation;
    register void *r1 __asm__("r1") = block;

    __asm__ volatile("bkpt 0xab" : "+r" (r0) : "r" (r1) : "memory");
    return r0;
}

/** semihosting_exit: end QEMU with this exit status */
static inline __attribute__((noreturn)) void semihosting_exit(int status)
{
    uint32_t block[2] = {
        SEMIHOSTING_ADP_STOPPED_APPLICATION_EXIT, (uint32_t)status
    };

    for (;;) {
        semihosting_call(SEMIHOSTING_SYS_EXIT_EXTENDED, block);
    }
}

/**
 * semihosting_command_line: what QEMU was started with
 *
 * @buffer: filled with the names of -kernel and the words of -append, with
 *          a space in between; empty if there is no telling
 * @size: of the buffer in bytes
 */
static inline void semihosting_command_line(char *buffer, uint32_t size)
{
    uint32_t block[2] = { (uint32_t)(uintptr_t)buffer, size };

    if (semihosting_call(SEMIHOSTING_SYS_GET_CMDLINE, block) != 0) {
        buffer[0] = '\0';
    }
}

#endif /* SEMIHOSTING_H */
