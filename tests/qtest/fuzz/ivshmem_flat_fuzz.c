/*
 * Fuzzing target for ivshmem-flat
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Each input is the life of one device: it is created, connects to a server
 * that greets as it should, is realized, used, and taken away again. The
 * guest's accesses to both regions, mixed with that server's messages, come
 * from the input. They are compared with a model of the registers, which
 * follows docs/specs/ivshmem-spec.rst and the device's documentation, upon the
 * model of the protocol in ivshmem_fuzz.h: does realize succeed, what do
 * registers read, what does the device say of itself.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "hw/core/boards.h"
#include "hw/core/irq.h"
#include "hw/core/qdev-properties.h"
#include "hw/core/qdev-properties-system.h"
#include "hw/core/sysbus.h"
#include "hw/misc/ivshmem-flat.h"
#include "qom/qom-qobject.h"
#include "ivshmem_fuzz.h"

#define IOMEM 0x50000000
#define IOMEM_SIZE 0x100
#define SHMEM 0x70000000

#define INTRMASK 0x0
#define INTRSTATUS 0x4
#define IVPOSITION 0x8
#define DOORBELL 0xc

/* the peer registers */
#define FEATURES 0x10
#define VECTORS 0x14
#define CHANGES 0x18
#define SELECT 0x1c
#define NEXT 0x20
#define NEXT_VECTORS 0x24
#define PAGES 0x28

typedef enum Outcome {
    UNKNOWN,
    FAILURE,
    SUCCESS,
} Outcome;

/* The input's device, and the model of its registers. */
static struct {
    DeviceState *dev;
    OnOffAuto master;
    uint32_t intrmask;
    uint32_t intrstatus;
    bool peer_registers;
    uint32_t select;
    uint32_t changes;           /* when we last looked */
} device;

static qemu_irq *irqs;
static int level;               /* of output 0 */

/* The model of the registers */

/* Reads another value if, and only if, there was a change. */
static uint32_t look_at_changes(Run *r)
{
    uint32_t value;

    qtest_memread(r->qts, IOMEM + CHANGES, &value, sizeof(value));
    value = le32_to_cpu(value);
    CHECK((value != device.changes) == r->changed, "CHANGES was %u and is %u, "
          "expected %s", device.changes, value, r->changed ? "another" :
          "the same");
    device.changes = value;
    r->changed = false;
    return value;
}

/* What counted before the machine starts is nothing to us. */
static void begin_changes(Run *r)
{
    qtest_memread(r->qts, IOMEM + CHANGES, &device.changes, 4);
    device.changes = le32_to_cpu(device.changes);
    r->changed = false;
}

/* The id that NEXT reads, and the peer */
static Peer *model_next(Run *r, uint32_t *id)
{
    GHashTableIter iter;
    gpointer key, value;
    Peer *next = NULL;

    *id = UINT32_MAX;
    g_hash_table_iter_init(&iter, r->peers);
    while (r->greeted && g_hash_table_iter_next(&iter, &key, &value)) {
        if (GPOINTER_TO_UINT(key) >= device.select &&
            GPOINTER_TO_UINT(key) < *id) {
            *id = GPOINTER_TO_UINT(key);
            next = value;
        }
    }
    return next;
}

static uint32_t model_read_peer_register(Run *r, unsigned offset)
{
    uint32_t id;
    Peer *next = model_next(r, &id);

    switch (offset) {
    case FEATURES:
        return 1;
    case VECTORS:
        return r->greeted && r->nown ?
               ctpop64(r->wired & MAKE_64BIT_MASK(0, r->nown)) : 0;
    case CHANGES:
        return look_at_changes(r);
    case SELECT:
        return device.select;
    case NEXT:
        return id;
    case NEXT_VECTORS:
        return next ? next->nvectors : 0;
    case PAGES:
        return r->shmem_size >> 12;
    default:
        return 0;
    }
}

static uint32_t model_read_register(Run *r, unsigned offset)
{
    uint32_t value;

    switch (offset) {
    case INTRMASK:
        return device.intrmask;
    case INTRSTATUS:
        value = device.intrstatus;
        device.intrstatus = 0;
        return value;
    case IVPOSITION:
        return r->wired ? r->id : 0;
    default:
        if (device.peer_registers) {
            return model_read_peer_register(r, offset);
        }
        return 0;
    }
}

static void model_write_register(Run *r, unsigned offset, uint32_t value,
                                 unsigned size)
{
    unsigned shift = offset % 4 * 8;
    uint32_t mask = (size == 4 ? UINT32_MAX : (1U << (size * 8)) - 1) << shift;

    switch (offset & ~3) {
    case INTRMASK:
        device.intrmask = (device.intrmask & ~mask) | ((value << shift) & mask);
        break;
    case INTRSTATUS:
        device.intrstatus = (device.intrstatus & ~mask) |
                            ((value << shift) & mask);
        break;
    case DOORBELL:
        if (size == 4) {
            ivfuzz_model_doorbell(r, value >> 16, value);
        }
        break;
    case SELECT:
        device.select = (device.select & ~mask) | ((value << shift) & mask);
        break;
    }
}

static void check_level(Run *r)
{
    int expected = r->revision == 0 && r->wired & 1 &&
                   device.intrstatus & device.intrmask;

    CHECK(level == expected, "the output is %d, expected %d with INTRSTATUS "
          "0x%x and INTRMASK 0x%x", level, expected, device.intrstatus,
          device.intrmask);
}

/* The bus splits an access into naturally aligned ones of up to 32 bits. */
static unsigned piece(unsigned offset, unsigned size)
{
    unsigned align = offset ? offset & -offset : 4;

    return MIN(MIN(align, 4), size >= 4 ? 4 : size >= 2 ? 2 : 1);
}

/* The guest */

static void guest_read(Run *r, unsigned offset, unsigned size)
{
    uint8_t expected[8] = {};
    uint8_t found[8];

    size = MIN(size, IOMEM_SIZE - offset);
    for (unsigned at = 0, n; at < size; at += n) {
        uint32_t value = model_read_register(r, (offset + at) & ~3) >>
                         ((offset + at) % 4 * 8);

        n = piece(offset + at, size - at);
        for (unsigned i = 0; i < n; i++) {
            expected[at + i] = value >> (i * 8);
        }
    }
    qtest_memread(r->qts, IOMEM + offset, found, size);
    for (unsigned i = 0; i < size; i++) {
        CHECK(found[i] == expected[i],
              "offset 0x%x, read with %u bytes at 0x%x: 0x%02x, expected "
              "0x%02x", offset + i, size, offset, found[i], expected[i]);
    }
    check_level(r);
}

static void guest_write(Run *r, unsigned offset, unsigned size, uint64_t value)
{
    size = MIN(size, IOMEM_SIZE - offset);
    for (unsigned at = 0, n; at < size; at += n) {
        n = piece(offset + at, size - at);
        model_write_register(r, offset + at, value >> (at * 8), n);
    }
    value = cpu_to_le64(value);
    qtest_memwrite(r->qts, IOMEM + offset, &value, size);
    check_level(r);
}

static void guest_ring(Run *r, uint16_t peer, uint16_t vector)
{
    guest_write(r, DOORBELL, 4, (uint32_t)peer << 16 | vector);
}

/* Shared memory is the server's file, at the same offset. */
static void guest_shmem(Run *r, uint64_t offset, unsigned size, uint64_t value)
{
    Thing *memory = &ivfuzz_things[r->memory];
    uint64_t found = 0;

    offset %= memory->size;
    size = MIN(size, memory->size - offset);
    qtest_memwrite(r->qts, SHMEM + offset, &value, size);
    CHECK(pread(memory->fd, &found, size, offset) == size &&
          !memcmp(&found, &value, size),
          "shared memory: a store to 0x%" PRIx64 " is not in the server's file",
          offset);
    value = ~value;
    CHECK(pwrite(memory->fd, &value, size, offset) == size, "pwrite: %s",
          strerror(errno));
    qtest_memread(r->qts, SHMEM + offset, &found, size);
    CHECK(!memcmp(&found, &value, size), "shared memory: a load from 0x%"
          PRIx64 " is not what the server's file has", offset);
}

static void guest_reset(Run *r)
{
    device_cold_reset(device.dev);
    device.intrmask = 0;
    device.intrstatus = 0;
    device.select = 0;
    check_level(r);
}

/* Where the model and the device meet */

/* In revision 0: an interrupt has come, or may have come. */
static void take_intrstatus(Run *r, bool must)
{
    uint32_t found;

    if (must) {
        device.intrstatus |= 1;
    } else {
        /* Either is right: make it the same again. */
        qtest_memread(r->qts, IOMEM + INTRSTATUS, &found, sizeof(found));
        device.intrstatus = 0;
    }
}

/* What the device says of itself. */
static void check_properties(Run *r)
{
    Object *obj = OBJECT(device.dev);
    g_autoptr(QList) peers =
        qobject_to(QList, object_property_get_qobject(obj, "peers",
                                                      &error_abort));
    g_autoptr(QList) interrupts =
        qobject_to(QList, object_property_get_qobject(obj, "interrupts",
                                                      &error_abort));
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(peers, entry) {
        QDict *dict = qobject_to(QDict, qlist_entry_obj(entry));
        int64_t id = qdict_get_int(dict, "id");
        Peer *peer = g_hash_table_lookup(r->peers, GUINT_TO_POINTER(id));

        CHECK(peer && peer->nvectors == qdict_get_int(dict, "vectors"),
              "peer %" PRId64 " has %" PRId64 " vectors, expected %u", id,
              qdict_get_int(dict, "vectors"), peer ? peer->nvectors : 0);
    }
    CHECK(qlist_size(peers) == g_hash_table_size(r->peers),
          "%zu peers, expected %u", qlist_size(peers),
          g_hash_table_size(r->peers));
    CHECK(qlist_size(interrupts) == r->nown, "%zu own vectors, expected %u",
          qlist_size(interrupts), r->nown);
    CHECK(object_property_get_uint(obj, "id", &error_abort) == r->id,
          "the id is not %u", r->id);
    CHECK(object_property_get_bool(obj, "connected", &error_abort) ==
          (r->greeted && !r->server_gone), "connected is not %d",
          r->greeted && !r->server_gone);
    CHECK(object_property_get_uint(obj, "shmem-size", &error_abort) ==
          r->shmem_size, "shmem-size is not %" PRIu64, r->shmem_size);
}

static void irq_handler(void *opaque, int n, int value)
{
    ivfuzz_pulses[n] += value;
    if (n == 0) {
        level = value;
    }
}

/* The device's life */

/* Returns whether they are as they should be. */
static bool set_properties(Run *r)
{
    static const struct {
        uint32_t vectors;
        uint32_t revision;
        bool ok;
        bool in_iothread;       /* not in revision 0: INTRSTATUS would race */
    } kinds[] = {
        { 1, 1, true }, { 1, 1, true }, { 1, 0, true }, { 1, 0, true },
        { 2, 1, true }, { 3, 1, true }, { 64, 1, true }, { 0, 1, false },
        { 65, 1, false }, { 2, 0, false }, { 1, 2, false },
        { 1, 1, true, true }, { 3, 1, true, true },
    };
    static const uint64_t wires[] = {
        UINT64_MAX, UINT64_MAX, UINT64_MAX, 0, 0x5555555555555555
    };
    uint64_t sizes[] = {
        0, 0, 0, ivfuzz_things[GOOD_MEMORY].size,
        ivfuzz_things[OTHER_MEMORY].size, 1
    };
    static const OnOffAuto masters[] = {
        ON_OFF_AUTO_OFF, ON_OFF_AUTO_OFF, ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON
    };
    uint8_t byte = ivfuzz_take(r, 1);
    unsigned kind = byte % ARRAY_SIZE(kinds);
    uint8_t wire = ivfuzz_take(r, 1);
    IvshmemFlat *s = IVSHMEM_FLAT(device.dev);
    uint64_t used;
    bool ok = kinds[kind].ok;

    qdev_prop_set_chr(device.dev, "chardev", r->chr);
    r->vectors = kinds[kind].vectors;
    r->revision = kinds[kind].revision;
    qdev_prop_set_uint32(device.dev, "vectors", r->vectors);
    qdev_prop_set_uint32(device.dev, "revision", r->revision);
    device.peer_registers = byte & 0x80;
    qdev_prop_set_bit(device.dev, "peer-registers", device.peer_registers);
    if (byte >= 0xc0 && r->revision == 1) {
        r->told = 1;
        qdev_prop_set_int32(device.dev, "changes-vector", 0);
    }
    r->in_iothread = kinds[kind].in_iothread;
    if (r->in_iothread) {
        object_property_set_link(OBJECT(device.dev), "iothread",
                                 OBJECT(ivfuzz_iothread), &error_abort);
    }

    used = r->vectors < MAX_VECTORS ? BIT_ULL(r->vectors) - 1 : UINT64_MAX;
    r->wired = wires[wire % ARRAY_SIZE(wires)] & used;
    if (wire == UINT8_MAX && r->vectors < MAX_VECTORS) {
        r->wired |= BIT_ULL(r->vectors);
        ok = false;
    }
    for (unsigned i = 0; i < MAX_VECTORS; i++) {
        if (r->wired & BIT_ULL(i)) {
            sysbus_connect_irq(SYS_BUS_DEVICE(device.dev), i, irqs[i]);
        }
    }

    r->shmem_size = sizes[ivfuzz_take(r, 1) % ARRAY_SIZE(sizes)];
    if (r->shmem_size) {
        object_property_set_uint(OBJECT(device.dev), "shmem-size",
                                 r->shmem_size, &error_abort);
    }
    device.master = masters[ivfuzz_take(r, 1) % ARRAY_SIZE(masters)];
    object_property_set_str(OBJECT(device.dev), "master",
                            OnOffAuto_str(device.master), &error_abort);

    r->placed = ivfuzz_take(r, 1) % 8 != 7;
    s->bus_address_iomem = r->placed ? IOMEM : ivfuzz_take(r, 8) & ~3ull;
    s->bus_address_shmem = r->placed ? SHMEM : ivfuzz_take(r, 8) & ~4095ull;
    return ok;
}

static bool realize(Run *r, bool properties_ok)
{
    Outcome expected = SUCCESS;
    Error *err = NULL;
    bool ok;

    /*
     * The device reads the first batch before it is realized, and so does the
     * model. An own vector ends it; without one the device waits for a while,
     * and without a server, if that may come back, for ever.
     */
    ivfuzz_model_read(r);
    if (!r->bad_greeting && !(r->greeted && r->nown) && properties_ok) {
        if (!r->reconnects) {
            ivfuzz_server_hang_up(r);
        } else if (!ivfuzz_server_complete(r)) {
            return false;
        }
    }
    if (!properties_ok || r->bad_greeting || !r->greeted ||
        (device.master == ON_OFF_AUTO_ON && r->id != 0)) {
        expected = FAILURE;
    }
    if (r->vague || !r->placed) {
        expected = UNKNOWN;
    }
    ok = qdev_realize(device.dev, sysbus_get_default(), &err);
    CHECK(ok == !err, "realize returned %d, %s", ok,
          err ? error_get_pretty(err) : "no error");
    CHECK(expected != (ok ? FAILURE : SUCCESS), "realize: %s, expected %s",
          ok ? "success" : error_get_pretty(err),
          ok ? "failure" : "success");
    r->is_started = ok;
    CHECK(ok || !strchr(error_get_pretty(err), '\n'), "an error of two lines");
    error_free(err);
    return ok;
}

static void unrealize(Run *r)
{
    if (!device.dev->realized) {
        return;
    }
    qdev_unrealize(device.dev);
    /* A bus that lets devices go would do this. */
    for (unsigned i = 0; i < 2; i++) {
        MemoryRegion *mr =
            sysbus_mmio_get_region(SYS_BUS_DEVICE(device.dev), i);

        if (mr->container) {
            memory_region_del_subregion(mr->container, mr);
        }
    }
}

/* Operations that are the guest's. */
static void use_as_guest(Run *r, uint8_t op)
{
    unsigned width = 1 << (op / 16 % 4);
    uint64_t value;
    unsigned offset;

    switch (op % 16) {
    case 8:
    case 9:
        offset = ivfuzz_take(r, 1);
        guest_read(r, op & 1 ? offset : offset % 16, width);
        break;
    case 10 ... 12:
        offset = ivfuzz_take(r, 1);
        value = ivfuzz_take(r, 8);
        guest_write(r, op & 1 ? offset : offset % 16, width, value);
        break;
    case 13:
        value = ivfuzz_take(r, 8);
        guest_shmem(r, ivfuzz_take(r, 2), width, value);
        break;
    case 14:
        guest_reset(r);
        break;
    case 15:
        ivfuzz_poll_client(r);
        check_properties(r);
        break;
    }
}

static void mmio_fuzz(QTestState *qts, const uint8_t *data, size_t len)
{
    bool properties_ok;
    Run r;

    ivfuzz_begin(&r, qts, data, len);
    r.ring = guest_ring;
    r.interrupted = take_intrstatus;
    r.check = check_properties;
    r.is_mapped = true;
    device.intrmask = 0;
    device.intrstatus = 0;
    device.select = 0;
    device.dev = qdev_new(TYPE_IVSHMEM_FLAT);
    device.dev->hotplugged = false; /* as one that was there from the start */
    object_property_add_child(qdev_get_machine(), "fuzz", OBJECT(device.dev));
    properties_ok = set_properties(&r);
    ivfuzz_take_cuts(&r);
    ivfuzz_server_greeting(&r);
    if (realize(&r, properties_ok) && r.placed && !r.vague) {
        begin_changes(&r);
        while (r.len) {
            uint8_t op = ivfuzz_take(&r, 1);

            if (!ivfuzz_operation(&r, op % 16)) {
                use_as_guest(&r, op);
            }
        }
        ivfuzz_ring_all(&r);
    }

    unrealize(&r);
    object_unparent(OBJECT(device.dev));
    object_unref(OBJECT(device.dev));
    /* RCU gives back the old address space, and then the memory in that. */
    drain_call_rcu();
    drain_call_rcu();
    level = 0;
    ivfuzz_end(&r);
}

static void pre_fuzz(QTestState *qts)
{
    irqs = qemu_allocate_irqs(irq_handler, NULL, MAX_VECTORS);
    ivfuzz_prepare(qts, mmio_fuzz);
}

static GString *command_line(FuzzTarget *t)
{
    return g_string_new(TARGET_NAME " -machine mps2-an385,accel=qtest"
                        " -display none -object iothread,id=iothread");
}

static void register_ivshmem_flat_fuzz_target(void)
{
    fuzz_add_target(&(FuzzTarget) {
        .name = "ivshmem-flat-mmio",
        .description = "Fuzz ivshmem-flat with a guest's accesses and a "
                       "server's messages",
        .get_init_cmdline = command_line,
        .pre_fuzz = pre_fuzz,
        .fuzz = mmio_fuzz,
    });
}

fuzz_target_init(register_ivshmem_flat_fuzz_target);
