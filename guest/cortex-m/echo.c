/*
 * Firmware that sends each message back: something to try tests with
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * It speaks the message layer with 8 slots, and takes messages of up to 4096
 * bytes; longer ones are dropped. It needs no -semihosting.
 */

#include "board.h"
#include "console.h"
#include "cortex_m.h"
#include "ivshmem_flat.h"
#include "ivshmem_msg.h"

#define SLOTS 8

static const unsigned inputs[] = BOARD_IVSHMEM_INPUTS;
static struct ivshmem_flat ivshmem;
static struct ivshmem_msg msg;
static volatile bool rung;

/* the message that has come and not gone back yet, of one peer at a time */
static struct {
    bool there;
    unsigned slot;
    uint32_t type;
    uint32_t length;
    uint8_t payload[4096];
} message;

void interrupt(unsigned input)
{
    (void)input;        /* none but the device's is enabled */
    ivshmem_flat_interrupt(&ivshmem, 0);
    rung = true;
}

static void send_back(void)
{
    /* if the ring is full, the peer rings when it is not */
    message.there = ivshmem_msg_send(&msg, message.slot, message.type,
                                     message.payload, message.length) ==
                    IVSHMEM_MSG_FULL;
}

static void receive(unsigned slot)
{
    struct ivshmem_msg_header header;
    int32_t length;

    do {
        length = ivshmem_msg_receive(&msg, slot, &header, message.payload,
                                     sizeof(message.payload));
        if (length >= 0) {
            message.slot = slot;
            message.type = header.type;
            message.length = (uint32_t)length;
            send_back();
        }
    } while (!message.there &&
             (length >= 0 || length == IVSHMEM_MSG_TOO_LONG));
}

int main(void)
{
    int32_t peer;
    unsigned slot;

    ivshmem_flat_init(&ivshmem, BOARD_IVSHMEM_REGISTERS);
    nvic_enable(inputs[0]);
    if (ivshmem_msg_open(&msg, (void *)BOARD_IVSHMEM_MEMORY,
                         BOARD_IVSHMEM_MEMORY_SIZE, SLOTS,
                         IVSHMEM_MSG_ANY_SLOT, ivshmem_flat_id(&ivshmem), 0)) {
        print("shared memory at %x cannot be used\n", BOARD_IVSHMEM_MEMORY);
        return 2;
    }
    print("id %u echoes\n", (unsigned)msg.id);
    for (;;) {
        /* before we look: what rings from here on keeps us awake */
        rung = false;
        if (ivshmem_msg_poll(&msg) < 0) {
            print("another peer has taken slot %u\n", (unsigned)msg.slot);
            return 1;
        }
        if (message.there) {
            send_back();
        }
        for (slot = 0; slot < SLOTS && !message.there; slot++) {
            receive(slot);
        }
        while ((peer = ivshmem_msg_doorbell(&msg)) >= 0) {
            ivshmem_flat_ring(&ivshmem, (uint32_t)peer, 0);
        }
        sleep_unless(&rung);
    }
}
