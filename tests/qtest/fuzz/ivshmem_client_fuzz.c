/*
 * Fuzzing target for the client of an ivshmem server
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Each input is the life of one client, without a device or a machine. Its
 * server says a stream of any bytes, cut anywhere, with any file descriptors
 * attached anywhere, in the greeting and after it, and again when it comes
 * back. The client is compared with the model of the protocol in
 * ivshmem_fuzz.h.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "hw/misc/ivshmem-client.h"
#include "ivshmem_fuzz.h"

#include <sys/stat.h>

typedef struct ClientRun {
    Run run;
    IvshmemClient client;
    uint64_t size;              /* of the memory it takes; 0: any */
    int memory;                 /* an fd */
} ClientRun;

static bool take_memory(void *opaque, int fd, uint64_t size, Error **errp)
{
    ClientRun *c = opaque;
    struct stat st;

    CHECK(fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == size,
          "memory of %" PRIu64 " bytes is not what was sent", size);
    if (c->size && c->size != size) {
        error_setg(errp, "expected %" PRIu64 " bytes", c->size);
        return false;
    }
    if (c->memory >= 0) {
        close(c->memory);
    }
    c->memory = fd;
    c->size = size;
    return true;
}

static void server_gone(void *opaque)
{
    ClientRun *c = opaque;

    CHECK(c->run.reconnects, "a server that does not come back is gone");
}

static void interrupt(void *opaque, unsigned vector)
{
    ivfuzz_pulses[vector]++;
}

static const IvshmemClientOps ops = {
    .name = "client",
    .max_peer_vectors = MAX_VECTORS,
    .take_memory = take_memory,
    .server_gone = server_gone,
    .interrupt = interrupt,
};

static void ring(Run *r, uint16_t peer, uint16_t vector)
{
    ClientRun *c = container_of(r, ClientRun, run);

    ivfuzz_model_doorbell(r, peer, vector);
    ivshmem_peers_ring(&c->client.peers, peer, vector);
}

/* What the client knows. */
static void check(Run *r)
{
    IvshmemClient *client = &container_of(r, ClientRun, run)->client;
    bool connected = r->greeted && !r->server_gone;
    GHashTableIter iter;
    gpointer id, value;

    g_hash_table_iter_init(&iter, r->peers);
    while (g_hash_table_iter_next(&iter, &id, &value)) {
        IvshmemPeer *found = client->peers.others[GPOINTER_TO_UINT(id)];
        Peer *expected = value;

        CHECK(found && found->nvectors == expected->nvectors,
              "peer %u has %u vectors, expected %u", GPOINTER_TO_UINT(id),
              found ? found->nvectors : 0, expected->nvectors);
    }
    CHECK(hbitmap_count(client->peers.connected) == g_hash_table_size(r->peers),
          "%" PRIu64 " peers, expected %u",
          hbitmap_count(client->peers.connected), g_hash_table_size(r->peers));
    CHECK(client->peers.nvectors == r->nown, "%u own vectors, expected %u",
          client->peers.nvectors, r->nown);
    CHECK(client->peers.id == r->id, "the id is %u, expected %u",
          client->peers.id, r->id);
    CHECK((client->phase == IVSHMEM_CLIENT_CONNECTED) == connected,
          "connected is not %d", connected);
}

static bool client_connect(ClientRun *c)
{
    Run *r = &c->run;
    AioContext *ctx = r->in_iothread ?
                      iothread_get_aio_context(ivfuzz_iothread) :
                      iohandler_get_aio_context();
    Error *err = NULL;
    bool expected;

    /*
     * The client reads the first batch before it returns, and so does the
     * model. An own vector ends it; without one the client waits for a while,
     * and without a server, if that may come back, for ever.
     */
    ivfuzz_model_read(r);
    if (!r->bad_greeting && !(r->greeted && r->nown)) {
        if (!r->reconnects) {
            ivfuzz_server_hang_up(r);
        } else if (!ivfuzz_server_complete(r)) {
            return false;
        }
    }
    expected = !r->bad_greeting && r->greeted;
    r->is_started = ivshmem_client_connect(&c->client, r->vectors, ctx, &err);
    CHECK(r->is_started == !err, "connect returned %d, %s", r->is_started,
          err ? error_get_pretty(err) : "no error");
    CHECK(r->is_started == expected || r->vague, "connect: %s, expected %s",
          err ? error_get_pretty(err) : "success",
          expected ? "success" : "failure");
    CHECK(!err || !strchr(error_get_pretty(err), '\n'),
          "an error of two lines");
    error_free(err);
    return r->is_started;
}

static void use(ClientRun *c)
{
    Run *r = &c->run;

    for (unsigned i = 0; i < r->vectors; i++) {
        if (r->wired & BIT_ULL(i)) {
            ivshmem_peers_listen(&c->client.peers, i);
        }
    }
    while (r->len) {
        ivfuzz_operation(r, ivfuzz_take(r, 1) % 8);
    }
    ivfuzz_ring_all(r);
}

static void client_fuzz(QTestState *qts, const uint8_t *data, size_t len)
{
    static const struct {
        uint32_t vectors;
        bool in_iothread;
    } kinds[] = {
        { 1 }, { 2 }, { 3 }, { MAX_VECTORS }, { 1, true }, { 3, true },
    };
    const uint64_t sizes[] = {
        0, 0, ivfuzz_things[GOOD_MEMORY].size, ivfuzz_things[OTHER_MEMORY].size,
        1
    };
    g_autofree ClientRun *c = g_new0(ClientRun, 1);
    Run *r = &c->run;
    unsigned kind;

    ivfuzz_begin(r, qts, data, len);
    r->ring = ring;
    r->check = check;
    kind = ivfuzz_take(r, 1) % ARRAY_SIZE(kinds);
    r->vectors = kinds[kind].vectors;
    r->in_iothread = kinds[kind].in_iothread;
    r->wired = ivfuzz_take(r, 1) % 4 == 3 ? 0x5555555555555555 : UINT64_MAX;
    r->shmem_size = sizes[ivfuzz_take(r, 1) % ARRAY_SIZE(sizes)];
    ivfuzz_take_cuts(r);
    c->size = r->shmem_size;
    c->memory = -1;
    ivshmem_client_init(&c->client, &ops, c);
    /*
     * A chardev that gets a file descriptor which it cannot make blocking hangs
     * up from QEMU 10.2 on, and connects again, to a server that is silent. Do
     * not wait for so long that libFuzzer takes it for a slow input, 10 s.
     */
    c->client.greeting_ms = 5000;
    qemu_chr_fe_init(&c->client.chr, r->chr, &error_abort);

    ivfuzz_server_stream(r);
    if (client_connect(c)) {
        if (!r->vague) {
            use(c);
        }
        ivshmem_client_disconnect(&c->client);
    }

    qemu_chr_fe_deinit(&c->client.chr, false);
    if (c->memory >= 0) {
        close(c->memory);
    }
    ivfuzz_end(r);
}

static void pre_fuzz(QTestState *qts)
{
    ivfuzz_prepare(qts, client_fuzz);
}

static GString *command_line(FuzzTarget *t)
{
    return g_string_new(TARGET_NAME " -machine none,accel=qtest -display none"
                        " -object iothread,id=iothread");
}

static void register_ivshmem_client_fuzz_target(void)
{
    fuzz_add_target(&(FuzzTarget) {
        .name = "ivshmem-client",
        .description = "Fuzz the client of an ivshmem server with the server's "
                       "bytes and file descriptors",
        .get_init_cmdline = command_line,
        .pre_fuzz = pre_fuzz,
        .fuzz = client_fuzz,
    });
}

fuzz_target_init(register_ivshmem_client_fuzz_target);
