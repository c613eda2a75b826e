/*
 * A peer that is a Linux program, in a virtual machine or on the host
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: MIT
 */

/*
 * What it does and says in an exchange is what the firmware in ../cortex-m
 * does and says. So is its exit status: 0 if all went well, 1 if not, 2 if
 * it cannot begin.
 */

#include <err.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doorbell.h"
#include "exchange.h"
#include "icmsg_talk.h"
#include "ivshmem.h"
#include "rpmsg_talk.h"

static const char usage[] =
    "usage: %s WHERE [COMMAND]\n"
    "\n"
    "WHERE is an ivshmem server's socket on the host, or, in a virtual\n"
    "machine, the PCI address of an ivshmem-doorbell device, or /dev/uio0, an\n"
    "ivshmem-flat device. COMMAND is one of\n"
    "\n"
    "  exchange [messages=N] [peers=N] [vectors=N] [crc=1]\n"
    "                         exchange N messages (1000) with each of N peers\n"
    "                         (1) and check them; all peers have N vectors (1),\n"
    "                         from 2 on one for control; messages have a CRC,\n"
    "                         with all peers; the default\n"
    "  echo                   send each message back, to all who come\n"
    "  icmsg PEER [messages=N] [tx=OFFSET] [rx=OFFSET] [size=N] [align=N]\n"
    "        [sessions=1]     speak Zephyr's ICMsg with a peer: send N messages\n"
    "                         and check what comes back; without N, send back\n"
    "                         what comes\n"
    "  rpmsg PEER host|remote [messages=N] [name=NAME] [at=OFFSET] [size=N]\n"
    "        [buffer=N] [align=N] [address=N]\n"
    "                         the same with OpenAMP's RPMsg, as Zephyr's static\n"
    "                         vrings divide size bytes at OFFSET; the shared\n"
    "                         memory is at address=N for the peer\n"
    "  ring PEER [VECTOR]     ring a peer's doorbell, on vector 0 or VECTOR\n"
    "  wait [N]               wait for N doorbells (1), and name their vectors\n"
    "  sleeper [N], ringer [N]\n"
    "                         be rung, or ring, N times (1): a test\n"
    "\n"
    "PEER is the ID of a peer or, on the host and with an ivshmem-flat device that\n"
    "has peer-registers=on, \"all\": whoever is there.\n";

static uint32_t vectors = 1;

/* The whole line at once, also in a pipe */
static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fflush(stdout);
}

/* With more than one vector, all peers have a vector for control. */
static void ring_due(struct ivshmem *ivshmem, struct ivshmem_msg *msg)
{
    int32_t peer;

    while (vectors > EXCHANGE_VECTOR_CONTROL &&
           (peer = ivshmem_msg_doorbell_control(msg)) >= 0) {
        ivshmem_ring(ivshmem, (uint32_t)peer, EXCHANGE_VECTOR_CONTROL);
    }
    while ((peer = ivshmem_msg_doorbell(msg)) >= 0) {
        ivshmem_ring(ivshmem, (uint32_t)peer, EXCHANGE_VECTOR);
    }
}

static void open_messages(struct ivshmem *ivshmem, struct ivshmem_msg *msg,
                          uint32_t flags)
{
    if (ivshmem_msg_open(msg, ivshmem->memory, ivshmem->size, EXCHANGE_SLOTS,
                         IVSHMEM_MSG_ANY_SLOT, ivshmem->id, flags)) {
        errx(2, "shared memory of %zu bytes cannot be used", ivshmem->size);
    }
    say("id %u, slot %u\n", (unsigned)ivshmem->id, (unsigned)msg->slot);
}

static bool number(const char *text, unsigned long min, unsigned long max,
                   uint32_t *value)
{
    unsigned long n;
    char *end;

    n = strtoul(text, &end, 0);
    if (*text < '0' || *text > '9' || *end || n < min || n > max) {
        return false;
    }
    *value = (uint32_t)n;
    return true;
}

/* A peer's id, or IVSHMEM_NO_PEER: all that are there */
static bool peer_number(const struct ivshmem *ivshmem, const char *text,
                        uint32_t *peer)
{
    if (strcmp(text, "all")) {
        return number(text, 0, UINT16_MAX, peer);
    }
    if (!ivshmem->finds_peers) {
        errx(2, "all: the device does not tell who is there, expected the id "
             "of a peer");
    }
    *peer = IVSHMEM_NO_PEER;
    return true;
}

/* Returns false if it is known that nobody was rung. */
static bool ring(struct ivshmem *ivshmem, uint32_t peer, uint32_t vector)
{
    bool any = false;

    if (peer != IVSHMEM_NO_PEER) {
        return ivshmem_ring(ivshmem, peer, vector);
    }
    while ((peer = ivshmem_next_peer(ivshmem, peer + 1)) != IVSHMEM_NO_PEER) {
        any |= ivshmem_ring(ivshmem, peer, vector);
    }
    return any;
}

/* Each command gets the words that follow it; they end with a NULL. */

static bool do_exchange(struct ivshmem *ivshmem, char **words)
{
    struct ivshmem_msg msg;
    struct exchange x = {
        .msg = &msg, .messages = 1000, .peers = 1, .say = say,
    };
    uint32_t crc = 0;
    bool over, good;

    for (; *words; words++) {
        if (!(strncmp(*words, "messages=", 9) == 0 &&
              number(*words + 9, 0, UINT32_MAX, &x.messages)) &&
            !(strncmp(*words, "peers=", 6) == 0 &&
              number(*words + 6, 1, EXCHANGE_SLOTS - 1, &x.peers)) &&
            !(strncmp(*words, "vectors=", 8) == 0 &&
              number(*words + 8, 1, IVSHMEM_MAX_VECTORS, &vectors)) &&
            !(strncmp(*words, "crc=", 4) == 0 &&
              number(*words + 4, 0, 1, &crc))) {
            errx(2, "exchange: '%s', expected messages=N, peers=1 to %d, "
                 "vectors=1 to %d or crc=0 to 1", *words, EXCHANGE_SLOTS - 1,
                 IVSHMEM_MAX_VECTORS);
        }
    }
    open_messages(ivshmem, &msg, crc ? IVSHMEM_MSG_CRC : 0);
    for (;;) {
        over = exchange_step(&x);
        ring_due(ivshmem, &msg);
        if (over) {
            break;
        }
        if (x.idle) {
            ivshmem_wait(ivshmem, NULL, -1);
        }
    }
    ivshmem_msg_close(&msg);
    ring_due(ivshmem, &msg);
    good = exchange_verdict(&x);
    say(good ? "passed\n" : "FAILED\n");
    return good;
}

/* What came from one peer and is to be sent back. */
struct echo {
    bool pending;
    uint32_t type;
    size_t length;
    uint8_t *payload;
};

/* Nothing is taken from a peer that does not take back what it has sent. */
static void echo_step(struct ivshmem_msg *msg, unsigned slot,
                      struct echo *echo)
{
    struct ivshmem_msg_header header;
    int32_t length;

    for (;;) {
        if (echo->pending &&
            ivshmem_msg_send(msg, slot, echo->type, echo->payload,
                             echo->length) == IVSHMEM_MSG_FULL) {
            return;
        }
        echo->pending = false;
        length = ivshmem_msg_receive(msg, slot, &header, echo->payload,
                                     msg->ring_size);
        if (length >= 0) {
            echo->pending = true;
            echo->type = header.type;
            echo->length = (size_t)length;
        } else if (length == IVSHMEM_MSG_BAD_CRC) {
            say("peer %u: bad CRC\n", (unsigned)msg->peer[slot].id);
        } else {
            return;
        }
    }
}

static bool do_echo(struct ivshmem *ivshmem, char **words)
{
    struct echo echo[EXCHANGE_SLOTS] = { 0 };
    struct ivshmem_msg msg;
    int32_t changed;

    (void)words;
    open_messages(ivshmem, &msg, 0);
    for (unsigned slot = 0; slot < msg.slots; slot++) {
        echo[slot].payload = malloc(msg.ring_size);
        if (!echo[slot].payload) {
            err(2, "echo");
        }
    }
    while ((changed = ivshmem_msg_poll(&msg)) >= 0) {
        for (unsigned slot = 0; slot < msg.slots; slot++) {
            if (changed >> slot & 1) {
                echo[slot].pending = false;
                if (msg.peer[slot].state == IVSHMEM_MSG_LINKED) {
                    say("peer %u is there\n", (unsigned)msg.peer[slot].id);
                }
            }
            echo_step(&msg, slot, &echo[slot]);
        }
        ring_due(ivshmem, &msg);
        ivshmem_wait(ivshmem, NULL, -1);
    }
    say("another peer has taken slot %u\n", (unsigned)msg.slot);
    return false;
}

/* A region of the shared memory; NULL if it is not within that */
static void *region(const struct ivshmem *ivshmem, uint32_t offset,
                    uint32_t size)
{
    return size <= ivshmem->size && offset <= ivshmem->size - size ?
           (uint8_t *)ivshmem->memory + offset : NULL;
}

/* Talk with a peer until there is no more to do. */
static bool run_talk(struct ivshmem *ivshmem, uint32_t peer, struct talk *talk)
{
    bool over, good;

    if (peer == IVSHMEM_NO_PEER) {
        say("id %u is there for all\n", (unsigned)ivshmem->id);
    } else {
        say("id %u is there for peer %u\n", (unsigned)ivshmem->id,
            (unsigned)peer);
    }
    do {
        over = talk_step(talk);
        if (talk->protocol->doorbell(talk)) {
            ring(ivshmem, peer, 0);
        }
        if (!over && talk->idle) {
            ivshmem_wait(ivshmem, NULL, -1);
        }
    } while (!over);
    talk->protocol->close(talk);
    if (talk->protocol->doorbell(talk)) {
        ring(ivshmem, peer, 0);
    }
    good = talk_verdict(talk);
    say(good ? "passed\n" : "FAILED\n");
    return good;
}

static void read_icmsg_words(const struct ivshmem *ivshmem, char **words,
                             struct icmsg_talk *icmsg)
{
    uint32_t tx = ICMSG_TALK_TX, rx = ICMSG_TALK_RX, size = ICMSG_TALK_SIZE;
    uint32_t align = 0, sessions = 0;

    for (; *words; words++) {
        if (!(strncmp(*words, "messages=", 9) == 0 &&
              number(*words + 9, 0, UINT32_MAX, &icmsg->talk.messages)) &&
            !(strncmp(*words, "tx=", 3) == 0 &&
              number(*words + 3, 0, UINT32_MAX, &tx)) &&
            !(strncmp(*words, "rx=", 3) == 0 &&
              number(*words + 3, 0, UINT32_MAX, &rx)) &&
            !(strncmp(*words, "size=", 5) == 0 &&
              number(*words + 5, 0, UINT32_MAX, &size)) &&
            !(strncmp(*words, "align=", 6) == 0 &&
              number(*words + 6, 0, UINT32_MAX, &align)) &&
            !(strncmp(*words, "sessions=", 9) == 0 &&
              number(*words + 9, 0, 1, &sessions))) {
            errx(2, "icmsg: '%s', expected messages=N, tx=OFFSET, rx=OFFSET, "
                 "size=N, align=N or sessions=0 or 1", *words);
        }
    }
    icmsg->config = (struct ivshmem_icmsg_config) {
        .tx = region(ivshmem, tx, size), .tx_size = size,
        .rx = region(ivshmem, rx, size), .rx_size = size,
        .alignment = align, .sessions = sessions,
    };
    if (!icmsg->config.tx || !icmsg->config.rx ||
        !icmsg->talk.protocol->open(&icmsg->talk)) {
        errx(2, "icmsg: tx=%#x, rx=%#x, size=%#x, align=%u cannot be used in "
             "shared memory of %zu bytes", (unsigned)tx, (unsigned)rx,
             (unsigned)size, (unsigned)align, ivshmem->size);
    }
}

static bool do_icmsg(struct ivshmem *ivshmem, char **words)
{
    struct icmsg_talk icmsg = {
        .talk.protocol = &icmsg_talk_protocol, .talk.say = say,
    };
    uint32_t peer;

    if (!*words || !peer_number(ivshmem, *words, &peer)) {
        errx(2, "icmsg: expected a peer");
    }
    read_icmsg_words(ivshmem, words + 1, &icmsg);
    return run_talk(ivshmem, peer, &icmsg.talk);
}

static void read_rpmsg_words(const struct ivshmem *ivshmem, char **words,
                             struct rpmsg_talk *rpmsg)
{
    uint32_t at = RPMSG_TALK_AT, size = RPMSG_TALK_SIZE, address = 0;
    uint32_t buffer = RPMSG_TALK_BUFFER_SIZE, align = RPMSG_TALK_ALIGN;

    for (; *words; words++) {
        if (strncmp(*words, "name=", 5) == 0) {
            rpmsg->name = *words + 5;
        } else if (!(strncmp(*words, "messages=", 9) == 0 &&
                     number(*words + 9, 0, UINT32_MAX,
                            &rpmsg->talk.messages)) &&
                   !(strncmp(*words, "at=", 3) == 0 &&
                     number(*words + 3, 0, UINT32_MAX, &at)) &&
                   !(strncmp(*words, "size=", 5) == 0 &&
                     number(*words + 5, 0, UINT32_MAX, &size)) &&
                   !(strncmp(*words, "buffer=", 7) == 0 &&
                     number(*words + 7, 0, UINT16_MAX, &buffer)) &&
                   !(strncmp(*words, "align=", 6) == 0 &&
                     number(*words + 6, 0, UINT32_MAX, &align)) &&
                   !(strncmp(*words, "address=", 8) == 0 &&
                     number(*words + 8, 0, UINT32_MAX, &address))) {
            errx(2, "rpmsg: '%s', expected name=NAME, messages=N, at=OFFSET, "
                 "size=N, buffer=N, align=N or address=N", *words);
        }
    }
    rpmsg->config.memory = region(ivshmem, at, size);
    rpmsg->config.size = size;
    rpmsg->config.address = address + at;
    if (!rpmsg->config.memory ||
        ivshmem_rpmsg_layout_zephyr(&rpmsg->config.layout, size, buffer,
                                    align) ||
        !rpmsg->talk.protocol->open(&rpmsg->talk)) {
        errx(2, "rpmsg: name=%s, at=%#x, size=%#x, buffer=%u, align=%u, "
             "address=%#x cannot be used in shared memory of %zu bytes",
             rpmsg->name, (unsigned)at, (unsigned)size, (unsigned)buffer,
             (unsigned)align, (unsigned)address, ivshmem->size);
    }
}

static bool do_rpmsg(struct ivshmem *ivshmem, char **words)
{
    struct rpmsg_talk rpmsg = {
        .talk.protocol = &rpmsg_talk_protocol, .talk.say = say,
        .name = RPMSG_TALK_NAME,
    };
    uint32_t peer;

    if (!*words || !peer_number(ivshmem, words[0], &peer) || !words[1] ||
        (strcmp(words[1], "host") && strcmp(words[1], "remote"))) {
        errx(2, "rpmsg: expected a peer, and host or remote: what we are");
    }
    rpmsg.config.host = strcmp(words[1], "host") == 0;
    read_rpmsg_words(ivshmem, words + 2, &rpmsg);
    return run_talk(ivshmem, peer, &rpmsg.talk);
}

static bool do_wait(struct ivshmem *ivshmem, char **words)
{
    uint32_t times = 1;

    if (*words && (!number(*words, 0, UINT32_MAX, &times) || words[1])) {
        errx(2, "wait: expected a number of doorbells");
    }
    say("id %u waits\n", (unsigned)ivshmem->id);
    while (times--) {
        uint64_t rang;

        ivshmem_wait(ivshmem, &rang, -1);
        for (unsigned i = 0; i < ivshmem->vectors; i++) {
            if (rang >> i & 1) {
                say("vector %u\n", i);
            }
        }
    }
    return true;
}

static bool do_ring(struct ivshmem *ivshmem, char **words)
{
    uint32_t peer, vector = 0;

    if (!*words || !peer_number(ivshmem, words[0], &peer) ||
        (words[1] && (!number(words[1], 0, UINT16_MAX, &vector) || words[2]))) {
        errx(2, "ring: expected a peer and, perhaps, a vector");
    }
    if (!ring(ivshmem, peer, vector)) {
        if (peer == IVSHMEM_NO_PEER) {
            warnx("there is no peer with a vector %u", (unsigned)vector);
        } else {
            warnx("there is no peer %u with a vector %u", (unsigned)peer,
                  (unsigned)vector);
        }
        return false;
    }
    return true;
}

/* The other side of ../cortex-m/doorbell.c, that many times */
static uint32_t rounds(char **words)
{
    uint32_t n = 1;

    if (*words && (!number(*words, 1, UINT32_MAX, &n) || words[1])) {
        errx(2, "expected a number of rounds");
    }
    return n;
}

static bool do_sleeper(struct ivshmem *ivshmem, char **words)
{
    struct doorbell *doorbell = ivshmem->memory;

    for (uint32_t n = rounds(words); n; n--) {
        while (doorbell_look(&doorbell->awake)) {
        }
        doorbell_say(&doorbell->sleeper, ivshmem->id + 1);
        say("id %u sleeps\n", (unsigned)ivshmem->id);
        ivshmem_wait(ivshmem, NULL, -1);
        doorbell_say(&doorbell->awake, 1);
        say("passed\n");
    }
    return true;
}

static bool do_ringer(struct ivshmem *ivshmem, char **words)
{
    struct doorbell *doorbell = ivshmem->memory;

    for (uint32_t n = rounds(words); n; n--) {
        /* printing takes time: if the sleeper is there, ring at once */
        if (!doorbell_look(&doorbell->sleeper)) {
            say("id %u looks for a sleeper\n", (unsigned)ivshmem->id);
        }
        ivshmem_ring(ivshmem, doorbell_wait(&doorbell->sleeper) - 1, 0);
        doorbell_wait(&doorbell->awake);
        doorbell_clear(doorbell);
        say("passed\n");
    }
    return true;
}

static const struct {
    const char *name;
    bool (*run)(struct ivshmem *ivshmem, char **words);
} commands[] = {
    { "exchange", do_exchange },
    { "echo", do_echo },
    { "icmsg", do_icmsg },
    { "rpmsg", do_rpmsg },
    { "ring", do_ring },
    { "wait", do_wait },
    { "sleeper", do_sleeper },
    { "ringer", do_ringer },
};

int main(int argc, char **argv)
{
    static char *none[] = { "exchange", NULL };
    char **words = argc > 2 ? argv + 2 : none;
    struct ivshmem *ivshmem;
    bool good;

    if (argc == 2 && (strcmp(argv[1], "--help") == 0 ||
                      strcmp(argv[1], "-h") == 0)) {
        printf(usage, argv[0]);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]);
         i++) {
        if (strcmp(words[0], commands[i].name) == 0) {
            ivshmem = ivshmem_open(argv[1]);
            if (!ivshmem) {
                return 2;
            }
            good = commands[i].run(ivshmem, words + 1);
            ivshmem_close(ivshmem);
            return good ? 0 : 1;
        }
    }
    fprintf(stderr, usage, argv[0]);
    return 2;
}
